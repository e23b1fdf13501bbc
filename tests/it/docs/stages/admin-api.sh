# The newest of 17 dead letters of billing is del_17. `wh_…` is a webhook that was made over the API.
prepare() {
  cat >hookstile.yaml <<'END'
routes:
  - name: billing
    path: /webhooks/billing
    provider: vpn-enterprise
    secrets: [{env: WEBHOOK_SECRET}]
    delivery: queue
    upstream: http://127.0.0.1:3000/hooks
    retry: {initial: 10ms, max_interval: 10ms, permanent: {attempts: 1, at_least: 0s}}
END
  export HOOKSTILE_ADMIN_TOKEN=
  application 3000 422
  gateway
  local number
  for number in $(seq 17); do send --route billing; done
  until_true dead
  webhook=$(command curl -s -H 'Content-Type: application/json' http://127.0.0.1:9180/webhooks \
    -d '{"url": "http://127.0.0.1:3000/hooks", "headers": {"X-Old": "1"}}' | jq -r .webhook.id)
}

before() {
  version=$(command curl -si "http://127.0.0.1:9180/webhooks/$webhook" | sed -n 's/^etag: "\(.*\)".*/\1/Ip')
}

dead() { [ "$("$program" events list --json --status dead --limit 100 | jq '.deliveries | length')" = 17 ]; }
