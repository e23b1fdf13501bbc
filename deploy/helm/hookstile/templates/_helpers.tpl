{{- define "hookstile.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hookstile.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hookstile.labels" -}}
{{ include "hookstile.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Not empty if several gateways share a store. */}}
{{- define "hookstile.shared" -}}
{{- if (.Values.config.store).postgres }}yes{{ end -}}
{{- end -}}

{{/* The port of an address. */}}
{{- define "hookstile.port" -}}
{{- . | toString | splitList ":" | last -}}
{{- end -}}

{{/*
Writes `file` in place of each `secretKeyRef` below `.value`, and each NAME/KEY into the dictionary
`.found`. Refuses a secret in plain text.
*/}}
{{- define "hookstile.resolve" -}}
{{- $value := .value -}}
{{- $found := .found -}}
{{- if kindIs "map" $value -}}
{{- if and (hasKey $value "value") (not (without (keys $value) "value" "name" "secretKeyRef" "file" "env")) -}}
{{- fail "config: `value` puts a secret into a ConfigMap; use `secretKeyRef: {name, key}`" -}}
{{- end -}}
{{- if hasKey $value "secretKeyRef" -}}
{{- $name := required "config: a `secretKeyRef` has no `name`" ($value.secretKeyRef).name -}}
{{- $key := required "config: a `secretKeyRef` has no `key`" ($value.secretKeyRef).key -}}
{{- $path := printf "%s/%s" $name $key -}}
{{- $_ := set $found $path (dict "name" $name "key" $key) -}}
{{- $_ := set $value "file" (printf "/etc/hookstile-secrets/%s" $path) -}}
{{- $_ := unset $value "secretKeyRef" -}}
{{- end -}}
{{- range $inner := values $value -}}
{{- include "hookstile.resolve" (dict "value" $inner "found" $found) -}}
{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $inner := $value -}}
{{- include "hookstile.resolve" (dict "value" $inner "found" $found) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* {config: hookstile.yaml, secrets: {NAME/KEY: {name, key}}} as YAML. */}}
{{- define "hookstile.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.routes -}}{{- fail "config.routes: name at least one route" -}}{{- end -}}
{{- if not $config.listen -}}{{- fail "config.listen: name at least one listener" -}}{{- end -}}
{{- if and (or .Values.ingress.enabled .Values.httpRoute.enabled) (not $config.trusted_proxies) -}}
{{- fail "config.trusted_proxies: name the addresses of the ingress controller's or the Gateway's pods; without them all senders are one address" -}}
{{- end -}}
{{- if not (include "hookstile.shared" .) -}}
{{- if or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled -}}
{{- fail "replicas, autoscaling: several gateways need config.store.postgres; with a store each, all would forward a repeated event" -}}
{{- end -}}
{{- $_ := set $config "store" (merge (dict "path" "/var/lib/hookstile/store") $config.store (dict "max_ids" 10000000 "max_size" "8GiB")) -}}
{{- end -}}
{{- $found := dict -}}
{{- include "hookstile.resolve" (dict "value" $config "found" $found) -}}
{{- toYaml (dict "config" $config "secrets" $found) -}}
{{- end -}}

{{/* The pod of the StatefulSet and the Deployment. */}}
{{- define "hookstile.pod" -}}
{{- $secrets := (include "hookstile.config" . | fromYaml).secrets -}}
metadata:
  # Not the version: a new one of the chart alone restarts no pod.
  labels:
    {{- include "hookstile.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if include "hookstile.shared" . }}
  # Preferences, not requirements: a second gateway on a node is better than none.
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "hookstile.selector" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    # So that it can read the secrets, and write its store.
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: hookstile
      {{- with .Values.image }}
      image: {{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
      imagePullPolicy: {{ .pullPolicy }}
      {{- end }}
      args: [run, --config, /etc/hookstile/hookstile.yaml]
      {{- with .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: webhooks, containerPort: {{ include "hookstile.port" (first .Values.config.listen).address }}}
        - {name: admin, containerPort: {{ include "hookstile.port" .Values.config.admin.address }}}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      # A start reads all event IDs before it listens, or waits up to 30 s for another gateway that
      # creates the tables. Five minutes are allowed; some seconds are usual.
      startupProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 2
        failureThreshold: 150
      # Never /readyz: a restart fixes neither a full disk nor PostgreSQL.
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 3
      # Within shutdown.drain: two failures take 4 s. While PostgreSQL is gone, no gateway is ready.
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- if not (include "hookstile.shared" .) }}
        - {name: store, mountPath: /var/lib/hookstile}
        {{- end }}
        # Whole folders: a subPath would not see changes.
        - {name: config, mountPath: /etc/hookstile, readOnly: true}
        {{- if $secrets }}
        - {name: secrets, mountPath: /etc/hookstile-secrets, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "hookstile.fullname" . }}}
    {{- if $secrets }}
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          {{- range $path, $secret := $secrets }}
          - secret:
              name: {{ $secret.name }}
              items: [{key: {{ $secret.key | quote }}, path: {{ $path | quote }}}]
          {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
