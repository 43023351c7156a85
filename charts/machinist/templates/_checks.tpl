{{/* Refuses values that would render, and then break. Each message has the value's name, and what to do. */}}
{{- define "machinist.checks" -}}
{{- include "machinist.checkParts" . -}}
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
