# The newest of 17 dead letters of billing is del_17, and a webhook was made over the API.
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
}

dead() { [ "$("$program" events list --json --status dead --limit 100 | jq '.deliveries | length')" = 17 ]; }
