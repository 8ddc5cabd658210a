{{- define "warpline.image" -}}
{{- $name := printf "warpline-%s:%s" .name (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- if .root.Values.image.registry }}{{ .root.Values.image.registry }}/{{ end }}{{ $name -}}
{{- end }}

{{- define "warpline.labels" -}}
app.kubernetes.io/name: warpline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "warpline.metadataLabels" -}}
{{ include "warpline.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Where a distribution keeps its sockets, on the node. */}}
{{- define "warpline.kubelet" -}}
{{- if eq .Values.distribution "microk8s" }}/var/snap/microk8s/common/var/lib/kubelet{{ else }}/var/lib/kubelet{{ end -}}
{{- end }}
{{- define "warpline.containerd" -}}
{{- if eq .Values.distribution "microk8s" }}/var/snap/microk8s/common/run{{ else if eq .Values.distribution "k3s" }}/run/k3s/containerd{{ else }}/run/containerd{{ end -}}
{{- end }}

{{/* What every container of Warpline is denied; capabilities are added beside it, one by one. */}}
{{- define "warpline.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "warpline.unprivileged" -}}
{{ include "warpline.confined" . }}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: {drop: [ALL]}
{{- end }}

{{/* The namespaces of a list, as a NetworkPolicy's peers. Never of an empty list: a rule without peers lets everybody in. */}}
{{- define "warpline.namespaces" -}}
{{- range . }}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . }}}}
{{- end }}
{{- end }}

{{/* Where a pod runs, and whom it may push aside. */}}
{{- define "warpline.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "warpline.collectorEnv" -}}
- name: WARPLINE_NODE
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: NODE_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
- {name: WARPLINE_STATE_DIR, value: /var/lib/warpline}
{{- if not (or .root.Values.correlator.enabled .root.Values.collector.endpoint) }}
{{- fail "collector.endpoint is empty, and correlator.enabled is false: collectors have nowhere to send to" }}
{{- end }}
- {name: WARPLINE_COLLECTOR_ENDPOINT, value: {{ .root.Values.collector.endpoint | default (printf "http%s://%s-correlator:4318" (ternary "s" "" (ne .root.Values.correlator.tlsSecret "")) .root.Release.Name) | quote }}}
{{- if or .root.Values.correlator.enabled .root.Values.collector.queryUrl }}
- {name: WARPLINE_COLLECTOR_QUERY_URL, value: {{ .root.Values.collector.queryUrl | default (printf "http://%s-correlator:4320" .root.Release.Name) | quote }}}
{{- end }}
{{- if .root.Values.collector.gzip }}
- {name: WARPLINE_COLLECTOR_GZIP, value: "true"}
{{- end }}
{{- if .root.Values.collector.metricsDelta }}
- {name: WARPLINE_COLLECTOR_METRICS_DELTA, value: "true"}
{{- end }}
- {name: WARPLINE_COLLECTOR_QUEUE_MB, value: {{ .root.Values.collector.queueMegabytes | quote }}}
- {name: WARPLINE_COLLECTOR_RECORDER_MB, value: {{ .root.Values.collector.recorderMegabytes | quote }}}
- {name: WARPLINE_COLLECTOR_METRICS_ADDRESS, value: "0.0.0.0:{{ .port }}"}
- {name: WARPLINE_COLLECTOR_SOURCES, value: {{ .sources | quote }}}
{{- if .root.Values.correlator.tokenSecret }}
- {name: WARPLINE_COLLECTOR_TOKEN_FILE, value: /etc/warpline/token/tokens}
{{- end }}
{{- if .root.Values.correlator.tlsSecret }}
- {name: WARPLINE_COLLECTOR_TLS_CA, value: /etc/warpline/tls/ca.crt}
- {name: WARPLINE_COLLECTOR_TLS_CERTIFICATE, value: /etc/warpline/tls/tls.crt}
- {name: WARPLINE_COLLECTOR_TLS_KEY, value: /etc/warpline/tls/tls.key}
{{- end }}
{{- include "warpline.settingsEnv" .root }}
{{- end }}

{{/* Settings that no value of their own stands for: every process gets them, and reads those that are its own. */}}
{{- define "warpline.settingsEnv" -}}
{{- range $name, $value := .Values.settings }}
- {name: WARPLINE_{{ upper $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* Address and TLS of an agent or of Relay: `peer` is its part of the settings' names, `tls` its values. */}}
{{- define "warpline.peerEnv" -}}
{{- if .address }}
- {name: WARPLINE_{{ upper .peer }}_ADDRESS, value: {{ .address | quote }}}
{{- end }}
{{- if .tls.secret }}
- {name: WARPLINE_{{ upper .peer }}_TLS_CA, value: /etc/warpline/{{ .peer }}/ca.crt}
{{- if .tls.mutual }}
- {name: WARPLINE_{{ upper .peer }}_TLS_CERTIFICATE, value: /etc/warpline/{{ .peer }}/tls.crt}
- {name: WARPLINE_{{ upper .peer }}_TLS_KEY, value: /etc/warpline/{{ .peer }}/tls.key}
{{- end }}
{{- if .tls.name }}
- {name: WARPLINE_{{ upper .peer }}_TLS_NAME, value: {{ .tls.name | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "warpline.peerMount" -}}
{{- if .tls.secret }}
- {name: {{ .peer }}-tls, mountPath: /etc/warpline/{{ .peer }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "warpline.peerVolume" -}}
{{- if .tls.secret }}
- name: {{ .peer }}-tls
  secret: {secretName: {{ .tls.secret }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "warpline.secretMounts" -}}
{{- if .root.Values.correlator.tokenSecret }}
- {name: token, mountPath: /etc/warpline/token, readOnly: true}
{{- end }}
{{- if .root.Values.correlator.tlsSecret }}
- {name: tls, mountPath: /etc/warpline/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "warpline.secretVolumes" -}}
{{- if .root.Values.correlator.tokenSecret }}
- name: token
  secret: {secretName: {{ .root.Values.correlator.tokenSecret }}, defaultMode: 0440}
{{- end }}
{{- if .root.Values.correlator.tlsSecret }}
- name: tls
  secret: {secretName: {{ .root.Values.correlator.tlsSecret }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* Where people find the dashboard, if an ingress says so. */}}
{{- define "warpline.ingressUrl" -}}
{{- with .Values.dashboard }}{{ if and .enabled .ingress.enabled }}http{{ if .ingress.tlsSecret }}s{{ end }}://{{ .ingress.host }}{{ end }}{{ end -}}
{{- end }}

{{/* What KEDA asks the saturation of: a model, a pool of it, or the fleet. */}}
{{- define "warpline.saturationOf" -}}
{{- $asked := list -}}
{{- with .Values.keda.model }}{{ $asked = append $asked (printf "model=%s" (urlquery .)) }}{{ end -}}
{{- with .Values.keda.pool }}{{ $asked = append $asked (printf "pool=%s" (urlquery .)) }}{{ end -}}
{{- if $asked }}?{{ join "&" $asked }}{{ end -}}
{{- end -}}
