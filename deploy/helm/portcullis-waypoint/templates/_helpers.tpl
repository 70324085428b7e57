{{- define "portcullis.labels" -}}
gateway.networking.k8s.io/gateway-name: {{ .Release.Name | quote }}
gateway.networking.k8s.io/gateway-class-name: istio-waypoint
app.kubernetes.io/name: portcullis
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- end }}

{{- define "portcullis.selector" -}}
gateway.networking.k8s.io/gateway-name: {{ .Release.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "portcullis.sessionKeys" -}}
{{- $files := list -}}
{{- range .Values.sessionKeys.names -}}
{{- $files = append $files (printf "/var/run/secrets/portcullis/sessions/%s" .) -}}
{{- end -}}
{{- join "," $files -}}
{{- end }}
