# The application of billing accepts nothing, so each event becomes a dead letter at once.
routes() {
  cat >hookstile.yaml <<END
defaults:
  provider: vpn-enterprise
  secrets: [{env: WEBHOOK_SECRET}]
  delivery: queue
  upstream: http://127.0.0.1:3000/hooks
  retry: {initial: 10ms, max_interval: 10ms, permanent: {attempts: 1, at_least: 0s}}
routes:
  - {name: $1, path: /webhooks/billing}
END
}

all_dead() {
  [ "$("$program" events list --json --limit 100 | jq '[.deliveries[] | select(.status == "dead")] | length')" = 21 ]
}

prepare() {
  routes billing
  application 3000 422
  gateway
  local number
  for number in $(seq 20); do send --route billing --id "evt_$number"; done
  send --route billing --id evt_123
  until_true all_dead
}

moved() { "$program" routes list | grep -q billing-v2; }

before() {
  case "$(cat "$STAGE/$1.sh")" in
    "hookstile routes move"*)
      routes billing-v2
      hookstile reload
      until_true moved ;;
    "hookstile events forget"*)
      send --route billing-v2 --id evt_123 ;;
  esac
}
