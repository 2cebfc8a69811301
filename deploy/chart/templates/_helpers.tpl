{{- define "exeunt.chart" -}}
{{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Of (list image default-tag). */}}
{{- define "exeunt.image" -}}
{{- $image := index . 0 -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ $image.tag | default (index . 1) }}{{- end -}}
{{- end }}

{{- /* What the chart comes with, and what the value `settings` says over it. */}}
{{- define "exeunt.settings" -}}
{{- mergeOverwrite (include "exeunt.builtinSettings" $ | fromYaml) $.Values.settings | toYaml -}}
{{- end }}

{{- /* The ports of a NetworkPolicy. */}}
{{- define "exeunt.tcpPorts" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $ports = append $ports (dict "protocol" "TCP" "port" (int .)) -}}
{{- end -}}
{{- toJson $ports -}}
{{- end }}

{{- define "exeunt.datasources" -}}
{{ $.Files.Get "files/datasources.yaml" | replace "{namespace=\"exeunt\"" (printf "{namespace=\"%s\"" $.Release.Namespace) }}
{{- end }}
