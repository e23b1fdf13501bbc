# A route whose sender has gone quiet, after one request that was rejected.
prepare() {
  cat >hookstile.yaml <<'END'
routes:
  - name: billing
    path: /webhooks/billing
    provider: vpn-enterprise
    secrets: [{env: WEBHOOK_SECRET}]
    upstream: http://127.0.0.1:3000/hooks
    expect_every: 100ms
    capture: {}
END
  export HOOKSTILE_ADMIN_TOKEN=
  application 3000 200
  gateway
  send --route billing
  until_true silent
}

silent() { "$program" problems | grep -q 'no event was verified'; }

before() {
  case "$(cat "$STAGE/$1.sh")" in
    "hookstile rejections"*) send --route billing --tamper body ;;
  esac
}
