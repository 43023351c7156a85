{{- define "machinist.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "machinist.labels" -}}
app.kubernetes.io/name: machinist
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "machinist.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:machinist-controller
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

{{- define "machinist.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "machinist.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
