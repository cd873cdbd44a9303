{{- define "fedquit.labels" -}}
app.kubernetes.io/name: fedquit
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fedquit.pod" -}}
automountServiceAccountToken: false
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch # else the keys would be opened to the group at each start
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "fedquit.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* Unpack a folder from a Secret onto the volume, once and wholly. Takes: folder, archive, strip. */}}
{{- define "fedquit.unpack" -}}
- |
  umask 077
  test -e /srv/{{ .folder }} && exit 0
  rm -rf /srv/unpacked && mkdir /srv/unpacked
  tar -xzf /secret/{{ .archive }} -C /srv/unpacked --strip-components={{ .strip }} && mv /srv/unpacked /srv/{{ .folder }}
{{- end }}

{{- define "fedquit.claim" -}}
volumeClaimTemplates:
  - metadata: {name: folder}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .className }}
      storageClassName: {{ . | quote }}
      {{- end }}
      resources: {requests: {storage: {{ .size | quote }}}}
{{- end }}
