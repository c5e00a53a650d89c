{{- define "lens-ship.selector" -}}
app.kubernetes.io/name: lens-ship
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lens-ship.labels" -}}
{{ include "lens-ship.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "lens-ship.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}
