{{- define "machinist.labels" -}}
app.kubernetes.io/name: machinist
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Takes (list root server), as everything here that is about one of both servers: `controller` or `webhook`. */}}
{{- define "machinist.serviceAccount" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}
{{- $account := index $root.Values $server "serviceAccount" -}}
{{- if not (or $account.create $account.name) -}}
  {{- fail (printf "%s.serviceAccount.create is false, so %s.serviceAccount.name must name one" $server $server) -}}
{{- end -}}
{{- $account.name | default (printf "machinist-%s" $server) -}}
{{- end }}

{{- define "machinist.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "machinist.serviceAccount" (list . "controller") }}
{{- end }}

{{/* Environment of both servers: they must agree on it. Never from the downward API. */}}
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
      name: {{ . }}
      key: {{ $.Values.infra.kubeconfigSecret.key }}
{{- end }}
{{- end }}

{{/* Whether the chart itself makes the webhook's certificate: nobody else was named to do so. */}}
{{- define "machinist.makesCertificate" -}}
{{- if not (or .Values.webhook.url .Values.webhook.caBundle .Values.webhook.certificate.injectCAFrom) }}true{{ end -}}
{{- end }}

{{/*
The webhook's certificate of the chart's own making, as the data of its Secret. Made once for all templates of a run, and
kept from one upgrade to the next.
*/}}
{{- define "machinist.certificate" -}}
{{- if not (hasKey .Values.webhook.certificate "made") -}}
  {{- $stored := lookup "v1" "Secret" .Release.Namespace .Values.webhook.certificate.secretName -}}
  {{- if and $stored (index $stored.data "ca.crt") -}}
    {{- $_ := set .Values.webhook.certificate "made" $stored.data -}}
  {{- else -}}
    {{- $names := list (printf "machinist-webhook.%s.svc" .Release.Namespace) -}}
    {{- $ca := genCA "machinist-webhook" 3650 -}}
    {{- $leaf := genSignedCert (first $names) nil $names 3650 $ca -}}
    {{- $made := dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $leaf.Cert) "tls.key" (b64enc $leaf.Key) -}}
    {{- $_ := set .Values.webhook.certificate "made" $made -}}
  {{- end -}}
{{- end -}}
{{- toJson .Values.webhook.certificate.made -}}
{{- end }}
