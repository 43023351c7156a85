{{/* Common parts of all servers' pods. All take (list root server), with `controller`, `approver` or `webhook`. */}}

{{- define "machinist.image" -}}
{{- $root := index . 0 -}}
{{- $own := index $root.Values (index . 1) "image" -}}
{{- $image := $root.Values.image -}}
{{- $repository := $own.repository | default $image.repository -}}
{{/* A server's own tag overrides the common digest. */}}
{{- $digest := $own.digest | default (ternary $image.digest "" (empty $own.tag)) -}}
{{- if $digest -}}
{{ $repository }}@{{ $digest }}
{{- else -}}
{{ $repository }}:{{ $own.tag | default $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "machinist.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "machinist.podMetadata" -}}
{{- $root := index . 0 -}}{{- $values := index $root.Values (index . 1) -}}
labels:
  {{- $selector := include "machinist.selector" . | fromYaml -}}
  {{/* The first map with a label wins, so values cannot change the labels of the selector. */}}
  {{- merge $selector $values.podLabels (include "machinist.labels" $root | fromYaml) | toYaml | nindent 2 }}
{{- with $values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes (list affinity onControlPlane). The label of control-plane nodes has different values: empty with kubeadm, "true" with k3s and
RKE2. The terms of a node affinity are alternatives, so each gets the label. */}}
{{- define "machinist.affinity" -}}
{{- $affinity := deepCopy (index . 0) -}}
{{- if index . 1 -}}
  {{- $node := deepCopy ($affinity.nodeAffinity | default dict) -}}
  {{- $required := deepCopy ($node.requiredDuringSchedulingIgnoredDuringExecution | default dict) -}}
  {{- $role := dict "key" "node-role.kubernetes.io/control-plane" "operator" "Exists" -}}
  {{- $terms := list -}}
  {{- range $required.nodeSelectorTerms | default (list dict) -}}
    {{- $expressions := append (.matchExpressions | default list) $role -}}
    {{- $terms = append $terms (merge (dict "matchExpressions" $expressions) .) -}}
  {{- end -}}
  {{- $_ := set $required "nodeSelectorTerms" $terms -}}
  {{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" $required -}}
  {{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- $affinity | toYaml -}}
{{- end }}

{{- define "machinist.podSpec" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}{{- $values := index $root.Values $server -}}
serviceAccountName: {{ include "machinist.serviceAccount" . | quote }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml $values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds | int }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- if $values.hostNetwork }}
hostNetwork: true
# Infra clusters and the API server may have names that only the cluster's DNS resolves.
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- $onControlPlane := eq $root.Values.placement "controlPlane" }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{/* k3s and RKE2 also taint servers with the etcd role. */}}
{{- $tolerations := list -}}
{{- if $onControlPlane -}}
  {{- range list "control-plane" "etcd" -}}
    {{- $tolerations = append $tolerations (dict "key" (printf "node-role.kubernetes.io/%s" .) "operator" "Exists") -}}
  {{- end -}}
{{- end }}
{{- with concat $tolerations $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "machinist.affinity" (list $values.affinity $onControlPlane) | fromYaml }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $selector := dict "labelSelector" (dict "matchLabels" (include "machinist.selector" (list $root $server) | fromYaml)) }}
  {{- range . }}
  - {{- hasKey . "labelSelector" | ternary . (merge (deepCopy .) $selector) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "machinist.imageAndRights" -}}
{{- $root := index . 0 -}}{{- $values := index $root.Values (index . 1) -}}
image: {{ include "machinist.image" . | quote }}
imagePullPolicy: {{ $values.image.pullPolicy | default $root.Values.image.pullPolicy }}
securityContext: {{- toYaml $values.securityContext | nindent 2 }}
resources: {{- toYaml $values.resources | nindent 2 }}
{{- end }}

{{/* The chart's flags and those of the values. The servers use the last of two equal flags, so a value would have no effect. */}}
{{- define "machinist.args" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}
{{- $ours := include (printf "machinist.%sArgs" $server) $root | fromYamlArray -}}
{{- $extra := index $root.Values $server "extraArgs" -}}
{{- $names := list -}}
{{- range $ours }}{{- $names = append $names (regexFind "^[^=]+" .) }}{{- end -}}
{{- range $extra -}}
  {{- $name := regexReplaceAll "^--?" (regexFind "^[^=]+" .) "--" -}}
  {{- if and (has $name $names) (ne $name "--controller-user") -}}
    {{- fail (printf "%s.extraArgs has %s, which the chart sets already: use the value that is for it" $server $name) -}}
  {{- end -}}
{{- end -}}
{{- concat $ours $extra | toYaml -}}
{{- end }}

{{- define "machinist.strategy" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}{{- $values := index $root.Values $server -}}
{{- if $values.strategy -}}
strategy: {{- toYaml $values.strategy | nindent 2 }}
{{- else if $values.hostNetwork -}}
# A second pod on the same node could not bind the port.
strategy:
  rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
{{- else if eq $server "webhook" -}}
strategy:
  rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- end -}}
{{- end }}
