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

{{- define "lens-ship.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary .Release.Name "" .Values.priorityClass.create) -}}
{{- end }}

{{- /* A processorUrl beside tables of sinks is refused by the service. */ -}}
{{- define "lens-ship.processorUrl" -}}
{{- if not (regexMatch "(?m)^\\s*\\[\\s*sinks\\s*[.\\]]" .Values.config) -}}{{ .Values.processorUrl }}{{- end -}}
{{- end }}

{{- /* The ports of the receivers that have no address of the cluster, as a JSON list. */ -}}
{{- define "lens-ship.outsidePorts" -}}
{{- $ports := list -}}
{{- $config := regexReplaceAll "(?m)^\\s*#.*$" .Values.config "" -}}
{{- $text := printf "%s %s %s" (include "lens-ship.processorUrl" .) (toJson .Values.settings) $config -}}
{{- range regexFindAll "https?://[^/\\s\"',\\\\]+" $text -1 -}}
{{- $host := regexReplaceAll "^.*[/@]" . "" -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $host) | default (ternary "443" "80" (hasPrefix "https" .)) -}}
{{- $name := regexReplaceAll ":[0-9]+$" $host "" -}}
{{- if not (or (regexMatch "^[^.:]*$" $name) (regexMatch "[.]svc([.].*)?$" $name)) -}}
{{- $ports = append $ports ($port | int) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}

{{- define "lens-ship.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}
