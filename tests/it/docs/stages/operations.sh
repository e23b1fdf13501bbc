# Three events of each route that its application refuses, and requests that nothing matches.
prepare() {
  cat >hookstile.yaml <<'END'
defaults:
  provider: vpn-enterprise
  secrets: [{env: WEBHOOK_SECRET}]
  upstream: http://127.0.0.1:3000/hooks
  retry: {initial: 10ms, max_interval: 10ms, permanent: {attempts: 1, at_least: 0s}}
routes:
  - {name: billing, path: /webhooks/billing, delivery: queue}
  - {path: /webhooks/proxied}
END
  application 3000 422
  gateway
  local number
  for number in 1 2 3; do
    send --route billing
    send --route webhooks-proxied
  done
  send --route billing --tamper body
  send http://127.0.0.1:8080/unknown --provider vpn-enterprise --secret-env WEBHOOK_SECRET
  until_true dead
}

dead() { [ "$("$program" events list --json --status dead | jq '.deliveries | length')" = 3 ]; }
