# The store of a gateway that has stopped, with 17 events.
prepare() {
  cat >hookstile.yaml <<'END'
routes:
  - name: billing
    path: /webhooks/billing
    provider: vpn-enterprise
    secrets: [{env: WEBHOOK_SECRET}]
    delivery: queue
    upstream: http://127.0.0.1:3000/hooks
END
  mkdir backup
  gateway
  local number
  for number in $(seq 17); do send --route billing; done
  kill -9 $gateway
  wait $gateway
}
