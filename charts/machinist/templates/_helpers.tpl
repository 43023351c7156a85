{{- define "machinist.labels" -}}
app.kubernetes.io/name: machinist
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The servers whose pods this release has, without a webhook outside the cluster. */}}
{{- define "machinist.servers" -}}
{{- include "machinist.approver" . -}}
- controller
{{- if .Values.approver.separate }}
- approver
{{- end }}
{{- if and (eq .Values.parts "all") (not .Values.webhook.url) }}
- webhook
{{- end }}
{{- end }}

{{/* The approver's pods are like the controller's, whose program they run, except for its own values. */}}
{{- define "machinist.approver" -}}
{{- $approver := deepCopy .Values.controller -}}
{{- range $key, $value := .Values.approver }}{{- $_ := set $approver $key $value }}{{- end -}}
{{- $_ := set $approver "hostNetwork" false -}}
{{- $_ := set .Values "approver" $approver -}}
{{- end }}

{{/* Name of a server's objects, or the prefix of their names. It contains the name of a named controller. Takes (list root server), like
all templates for one of the servers: `controller`, `approver` or `webhook`. */}}
{{- define "machinist.name" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}
machinist-{{ $server }}{{ if eq $root.Values.parts "controller" }}-{{ $root.Values.controller.name }}{{ end }}
{{- end }}

{{/* Name of the controller's Lease. */}}
{{- define "machinist.lease" -}}
{{- $beside := printf "machine-controller-%s" .Values.controller.name -}}
{{- .Values.leaderElection.lease | default (ternary "machine-controller" $beside (eq .Values.parts "all")) -}}
{{- end }}

{{- define "machinist.serviceAccount" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}
{{- $account := index $root.Values $server "serviceAccount" -}}
{{- if not (or $account.create $account.name) -}}
  {{- fail (printf "%s.serviceAccount.create is false, so %s.serviceAccount.name must name one" $server $server) -}}
{{- end -}}
{{- $account.name | default (include "machinist.name" .) -}}
{{- end }}

{{- define "machinist.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "machinist.serviceAccount" (list . "controller") }}
{{- end }}

{{- define "machinist.approverUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "machinist.serviceAccount" (list . "approver") }}
{{- end }}

{{/* The users of all controllers, in JSON: ours and those of other releases. */}}
{{- define "machinist.controllerUsers" -}}
{{- prepend .Values.otherControllers (include "machinist.controllerUser" .) | toJson -}}
{{- end }}

{{/* Environment of both servers, which must be the same. Never from the downward API. */}}
{{- define "machinist.env" -}}
- name: POD_NAMESPACE
  value: {{ .Values.infra.namespace | quote }}
{{- with .Values.infra.clusterID }}
- name: CLUSTER_ID
  value: {{ . | quote }}
{{- end }}
{{- with .Values.infra.projectID }}
- name: PROJECT_ID
  value: {{ . | quote }}
{{- end }}
{{- with .Values.infra.kubeconfigSecret.name }}
- name: KUBEVIRT_KUBECONFIG
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: {{ $.Values.infra.kubeconfigSecret.key | quote }}
{{- end }}
{{- end }}

{{/* Source of the webhook's certificate: selfManaged, certManager or existingSecret; empty, if another release has the webhook. */}}
{{- define "machinist.certificateMode" -}}
{{- if eq .Values.parts "all" -}}
{{- include "machinist.ownCertificateMode" . -}}
{{- end -}}
{{- end }}

{{- define "machinist.ownCertificateMode" -}}
{{- $webhook := .Values.webhook -}}
{{- $given := or $webhook.caBundle $webhook.certificate.injectCAFrom -}}
{{- $mode := $webhook.certificate.mode -}}
{{- if not $mode -}}
  {{- $mode = ternary "selfManaged" "existingSecret" (empty (or $given $webhook.url)) -}}
{{- end -}}
{{- if and $given (ne $mode "existingSecret") -}}
  {{- fail (printf "webhook.certificate.mode is %s, which needs neither webhook.caBundle nor webhook.certificate.injectCAFrom" $mode) -}}
{{- end -}}
{{- if and (eq $mode "existingSecret") (not (or $given $webhook.url)) -}}
  {{- fail "webhook.certificate.mode is existingSecret, so webhook.caBundle or webhook.certificate.injectCAFrom must say whom to trust" -}}
{{- end -}}
{{- if eq $webhook.certificate.secretName $webhook.certificate.caSecretName -}}
  {{- fail (printf "webhook.certificate.secretName and caSecretName are both %s, but the CA needs a Secret of its own" $webhook.certificate.secretName) -}}
{{- end -}}
{{- $mode -}}
{{- end }}

{{/* The name by which API servers call the webhook. */}}
{{- define "machinist.webhookName" -}}
{{- if .Values.webhook.url -}}
{{- trimAll "[]" (urlParse .Values.webhook.url).hostname -}}
{{- else -}}
machinist-webhook.{{ .Release.Namespace }}.svc
{{- end -}}
{{- end }}

{{/* The addresses of the webhook's replicas, for the controller's flag. */}}
{{- define "machinist.webhookReplicas" -}}
{{- if .Values.webhook.url -}}
{{- $host := (urlParse .Values.webhook.url).host -}}
{{- $address := regexMatch ":[0-9]+$" $host | ternary $host (printf "%s:443" $host) -}}
{{- .Values.webhook.certificate.replicas | default (list $address) | join "," -}}
{{- else -}}
machinist-webhook
{{- end -}}
{{- end }}

{{/* The annotation by which cert-manager injects its CA into the webhook configurations. */}}
{{- define "machinist.injectCA" -}}
{{- $from := .Values.webhook.certificate.injectCAFrom -}}
{{- if eq (include "machinist.certificateMode" .) "certManager" -}}
  {{- $from = printf "%s/machinist-webhook" .Release.Namespace -}}
{{- end -}}
{{- with $from -}}
annotations:
  cert-manager.io/inject-ca-from: {{ . | quote }}
{{- end -}}
{{- end }}
