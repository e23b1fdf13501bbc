# A secret that was changed at one end, an application that is down, and a scanner.
prepare() {
  cat >hookstile.yaml <<'END'
defaults: {provider: shopify, secrets: [{env: WEBHOOK_SECRET}]}
routes:
  - {name: shopify-orders, path: /webhooks/orders, expect_every: 1s, upstream: "http://127.0.0.1:3000/hooks"}
  - {name: billing, path: /webhooks/billing, provider: vpn-enterprise, delivery: queue, retry: {initial: 100ms, horizon: 20m}, upstream: "http://127.0.0.1:18199"}
END
  application 3000 200
  gateway
  local number
  send --route shopify-orders
  sleep 4 # longer than between two looks at the counters; the silence in which the provider's events are missing
  for number in $(seq 12); do
    send --route shopify-orders --tamper body
    send --route billing
    send --route billing
  done
  for number in $(seq 21); do command curl -s http://127.0.0.1:8080/unknown >/dev/null; done
  until_true listed
}

# With the explanation, which is made beside the requests.
listed() {
  "$program" problems --json | jq --exit-status \
    '(.problems | length) == 3 and any(.problems[]; .route == "shopify-orders" and (.summary | contains("is well formed")))'
}
