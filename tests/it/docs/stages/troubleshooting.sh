export OLD=the-secret-before-the-rotation

prepare() {
  cat >hookstile.yaml <<'END'
routes:
  - name: billing
    path: /webhooks/billing
    provider: vpn-enterprise
    capture: {requests: 20, for: 24h}
    secrets:
      - {env: WEBHOOK_SECRET, name: current}
      - {env: OLD, name: previous, expires: 2026-01-31T00:00:00Z}
    upstream: http://127.0.0.1:3000/hooks
  - {path: /webhooks/relayed, provider: vpn-enterprise, secrets: [{env: WEBHOOK_SECRET, name: current}], upstream: "http://127.0.0.1:3000/"}
  - {path: /webhooks/mistaken, provider: vpn-enterprise, secrets: [{env: WEBHOOK_SECRET, name: current}], upstream: "http://127.0.0.1:3000/"}
END
  # A body that was compact when GitHub signed it, as a curl command.
  printf key-of-github >key
  printf '{"action":"opened","number":7}' >compact.json
  local signature
  signature=$("$program" sign --provider github --secret-file key --body compact.json | grep -i '^x-hub-signature-256:')
  cat >captured.sh <<END
curl https://hooks.example.com/webhooks/github -H '$signature' -H 'X-GitHub-Event: issues' \\
  -H 'X-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958' -H 'Content-Type: application/json' \\
  --data-raw '{"action": "opened", "number": 7}'
END
  printf '{"type":"event_callback","event_id":"Ev08MFMKH6","event":{"type":"message"}}' >event.json
  "$program" sign --provider slack --secret-file key --body event.json --at 2026-01-31T12:00:00Z >head.txt
  printf '%s\r\n' 'POST /webhooks/relayed HTTP/1.1' 'Host: hooks.example.com' 'stripe-signature: t=1767225600,v1=5257a869' \
    'Content-Length: 2' '' >unsigned.http
  printf '{}' >>unsigned.http
  gateway
  # Each explanation before the next request, so that they are in the order of the page, the newest first.
  until_true explained 1 send http://127.0.0.1:8080/webhooks/mistaken --provider github --secret-env WEBHOOK_SECRET
  signature=$("$program" sign --route webhooks-relayed --body event.json | grep -i '^x-vpn-signature:')
  (cat event.json; echo) >relayed.json
  until_true explained 2 command curl -s -H "$signature" --data-binary @relayed.json http://127.0.0.1:8080/webhooks/relayed
  until_true explained 3 from_before
}

# Explanations are made for some requests only: sends one, and asks whether there are N now.
explained() {
  "${@:2}"
  sleep 0.2
  [ "$("$program" rejections list --json | jq '[.rejections[].explanation // empty] | length')" = "$1" ]
}

from_before() { "$program" send http://127.0.0.1:8080/webhooks/billing --provider vpn-enterprise --secret-env OLD; }

before() {
  case "$(cat "$STAGE/$1.sh")" in
    *--wait*) (for second in 1 2 3 4 5; do sleep 1; from_before; done) & ;;
  esac
}
