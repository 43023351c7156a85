{{/* Refuses values that render and fail later. Each message has the value's name and the fix. */}}
{{- define "machinist.checks" -}}
{{- $servers := include "machinist.servers" . | fromYamlArray -}}
{{- include "machinist.checkParts" . -}}
{{- range $server := $servers -}}
  {{- include "machinist.checkEnv" (list $ $server) -}}
  {{- include "machinist.checkBudget" (list $ $server) -}}
{{- end -}}
{{- include "machinist.checkPorts" (list . $servers) -}}
{{- include "machinist.checkPolicies" . -}}
{{- $webhook := .Values.webhook -}}
{{- $time := trimSuffix "s" $webhook.infraTimeout | float64 -}}
{{- if hasSuffix "ms" $webhook.infraTimeout -}}{{- $time = divf (trimSuffix "ms" $webhook.infraTimeout | float64) 1000 -}}{{- end -}}
{{- if gt (addf $time 1) ($webhook.timeoutSeconds | float64) -}}
  {{- fail (printf "webhook.infraTimeout is %s and webhook.timeoutSeconds %v, so the API server would not wait for the answer: timeoutSeconds must be longer, by a second at least" $webhook.infraTimeout $webhook.timeoutSeconds) -}}
{{- end -}}
{{- $issuer := .Values.webhook.certificate.issuerRef -}}
{{- if and $issuer (not $issuer.name) -}}
  {{- fail "webhook.certificate.issuerRef has no name: name the issuer, or leave issuerRef empty for a CA of the chart's own" -}}
{{- end -}}
{{- end }}

{{- define "machinist.checkParts" -}}
{{- $name := .Values.controller.name -}}
{{- if eq .Values.parts "controller" -}}
  {{- if not (regexMatch "^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$" $name) -}}
    {{- fail (printf "parts is controller, so controller.name must tell this controller from the others, and is part of the names of its objects: up to 30 of a-z, 0-9 and -, not %q" $name) -}}
  {{- end -}}
  {{- if eq $name "certificates" -}}
    {{- fail "controller.name is certificates, and the release whose parts are all has a ClusterRole machinist-controller-certificates: choose another name" -}}
  {{- end -}}
  {{- if .Values.otherControllers -}}
    {{- fail "otherControllers is for the release whose parts are all, which has the webhook and the policies" -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* Kubernetes uses the last of two variables with the same name, so one of both would have no effect. */}}
{{- define "machinist.checkEnv" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}
{{- $values := dict "POD_NAMESPACE" "infra.namespace" "CLUSTER_ID" "infra.clusterID" "PROJECT_ID" "infra.projectID" "KUBEVIRT_KUBECONFIG" "infra.kubeconfigSecret" -}}
{{- $names := list -}}
{{- range include "machinist.env" $root | fromYamlArray }}{{- $names = append $names .name }}{{- end -}}
{{- $extra := list -}}
{{- range index $root.Values $server "extraEnv" -}}
  {{- if has .name $names -}}
    {{- fail (printf "%s.extraEnv has %s, which the chart sets already: use %s" $server .name (index $values .name)) -}}
  {{- end -}}
  {{- if has .name $extra -}}
    {{- fail (printf "%s.extraEnv has %s twice: leave one out" $server .name) -}}
  {{- end -}}
  {{- $extra = append $extra .name -}}
{{- end -}}
{{- end }}

{{/* If a budget allows no disruption, the nodes of its pods can never be drained. */}}
{{- define "machinist.checkBudget" -}}
{{- $root := index . 0 -}}{{- $server := index . 1 -}}{{- $values := index $root.Values $server -}}
{{- $budget := $values.podDisruptionBudget -}}
{{/* Without a number, Kubernetes runs one pod. */}}
{{- $replicas := ternary 1 $values.replicas (kindIs "invalid" $values.replicas) | int -}}
{{- if and $budget.enabled $replicas -}}
  {{- $path := printf "%s.podDisruptionBudget" $server -}}
  {{- $instead := "set maxUnavailable: 1 and no minAvailable, or enabled: false" -}}
  {{- $least := toString $budget.minAvailable -}}
  {{- $most := toString $budget.maxUnavailable -}}
  {{- if not (or (kindIs "invalid" $budget.minAvailable) (eq $least "")) -}}
    {{- $number := trimSuffix "%" $least | int -}}
    {{- if hasSuffix "%" $least -}}
      {{/* Kubernetes rounds up. */}}
      {{- $number = div (add (mul $number $replicas) 99) 100 -}}
    {{- end -}}
    {{- if ge (int $number) $replicas -}}
      {{- fail (printf "%s.minAvailable is %s and %s.replicas is %d, so no pod can be evicted and its node cannot be drained: %s, or more replicas" $path $least $server $replicas $instead) -}}
    {{- end -}}
  {{- else if or (kindIs "invalid" $budget.maxUnavailable) (has $most (list "" "0" "0%")) -}}
    {{- fail (printf "%s.maxUnavailable is %q, so no pod can be evicted and its node cannot be drained: %s" $path (ternary "" $most (kindIs "invalid" $budget.maxUnavailable)) $instead) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* Takes (list root servers). Ports must differ within a pod. If both servers use their node's network, all ports must differ. */}}
{{- define "machinist.checkPorts" -}}
{{- $root := index . 0 -}}{{- $servers := index . 1 -}}
{{- $ports := dict "controller" (list "metricsPort" "probesPort") "webhook" (list "port" "opsPort") -}}
{{- $shared := and (has "webhook" $servers) $root.Values.controller.hostNetwork $root.Values.webhook.hostNetwork -}}
{{- $taken := dict -}}
{{- range $server := $servers -}}
  {{- if not $shared -}}{{- $taken = dict -}}{{- end -}}
  {{- range index $ports $server -}}
    {{- $path := printf "%s.%s" $server . -}}
    {{- $port := index $root.Values $server . | int | toString -}}
    {{- with index $taken $port -}}
      {{- fail (printf "%s and %s are both %s: pods that share a network cannot listen twice on a port, so change one" . $path $port) -}}
    {{- end -}}
    {{- $_ := set $taken $port $path -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* A controller in its node's network has the address of that node, which no pod selector matches. */}}
{{- define "machinist.checkPolicies" -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and $policy.enabled $policy.webhookFrom .Values.controller.hostNetwork (not .Values.webhook.hostNetwork) -}}
{{- if and (eq (include "machinist.certificateMode" .) "selfManaged") (not .Values.webhook.url) -}}
  {{- $blocks := list -}}
  {{- range $policy.webhookFrom }}{{- with .ipBlock }}{{- $blocks = append $blocks . }}{{- end }}{{- end -}}
  {{- if not $blocks -}}
    {{- fail "controller.hostNetwork is true, and networkPolicy.webhookFrom has no ipBlock, so the controller could not ask the webhook which certificate it serves: add the addresses of the controller's nodes" -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
