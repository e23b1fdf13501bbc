# A secret that was changed at one end, an application that is down, and a scanner.
prepare() {
  cat >hookstile.yaml <<'END'
defaults: {provider: shopify, secrets: [{env: WEBHOOK_SECRET}]}
routes:
  - {name: shopify-orders, path: /webhooks/orders, upstream: "http://127.0.0.1:3000/hooks"}
  - {name: billing, path: /webhooks/billing, provider: vpn-enterprise, delivery: queue, retry: {initial: 100ms, horizon: 20m}, upstream: "http://127.0.0.1:18199"}
END
  application 3000 200
  gateway
  local number
  for number in 1 2 3 4 5 6; do
    send --route shopify-orders --tamper body
    send --route billing
    send --route billing
    send --route billing
  done
  for number in $(seq 21); do command curl -s http://127.0.0.1:8080/unknown; done
  until_true listed
}

listed() { [ "$("$program" problems --json | jq '.problems | length')" = 3 ]; }
