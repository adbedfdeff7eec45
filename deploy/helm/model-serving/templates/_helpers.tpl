{{- define "model-serving.name" -}}
{{- /* Leaves room for "-triton-99" within the 63 characters of a name. */ -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "model-serving.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "model-serving.labels" -}}
{{ include "model-serving.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "model-serving.withTriton" -}}
{{- if eq .Values.gateway.backend "triton" }}yes{{ end }}
{{- end }}

{{- define "model-serving.withNginx" -}}
{{- if and .Values.nginx.enabled (include "model-serving.withTriton" .) }}yes{{ end }}
{{- end }}

{{- define "model-serving.withStaging" -}}
{{- if and .Values.tritonStaging.enabled (include "model-serving.withTriton" .) }}yes{{ end }}
{{- end }}

{{- define "model-serving.image" -}}
{{- $of := .imageOf | default .component }}
{{- $image := (index .root.Values $of).image }}
{{- range $part := list "repository" "tag" }}
{{- if not (index $image $part) }}{{ fail (printf "Set %s.image.%s: it has no default." $of $part) }}{{ end }}
{{- end }}
{{- if and .root.Values.requireDigests (not $image.digest) }}
{{- fail (printf "Set %s.image.digest to what your registry says for %s:%s, or requireDigests to false." $of $image.repository $image.tag) }}
{{- end }}
{{- $image.repository }}:{{ $image.tag }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "model-serving.podSpec" -}}
{{- $own := .own | default (index .root.Values .component) -}}
{{- /* With service links a Service called gateway would set GATEWAY_PORT to an address. */ -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 $own.runAsUser }}
  runAsGroup: {{ int64 $own.runAsUser }}
  seccompProfile:
    type: RuntimeDefault
  {{- if ne .component "nginx" }}
  {{- with .root.Values.repository.supplementalGroups }}
  supplementalGroups: {{ toJson . }}
  {{- end }}
  {{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "model-serving.selector" . | nindent 8 }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "model-serving.container" -}}
name: {{ .component }}
image: {{ include "model-serving.image" . }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml (.own | default (index .root.Values .component)).resources | nindent 2 }}
lifecycle:
  # Others learn that the pod is going while it still answers.
  preStop:
    exec:
      command: [sleep, "5"]
{{- end }}

{{- define "model-serving.repository" -}}
- name: repository
  persistentVolumeClaim:
    claimName: {{ .Values.repository.existingClaim | default (printf "%s-repository" (include "model-serving.name" .)) }}
{{- end }}

{{- define "model-serving.repositoryPath" -}}
/models{{ with .Values.repository.folder }}/{{ . }}{{ end }}
{{- end }}

{{- define "model-serving.dns" -}}
{{- /* Wherever the cluster has it: in pods, or on the node. */ -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{- define "model-serving.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "model-serving.name" .root }}-{{ .component }}
  labels:
    {{- include "model-serving.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # Pods that are not ready (before the first deploy, none is) do not keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "model-serving.selector" . | nindent 6 }}
{{- end }}

{{- define "model-serving.scrapeKey" -}}
{{- with .root.Values.gateway.apiKeySecret }}
{{- if and .name (eq $.component "gateway") -}}
authorization:
  type: Bearer
  credentials: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- end }}
