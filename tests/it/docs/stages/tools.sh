export WEBHOOK_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw

prepare() {
  cat >hookstile.yaml <<'END'
defaults: {secrets: [{env: WEBHOOK_SECRET}], upstream: http://127.0.0.1:4000/hooks}
routes:
  - {path: /webhooks/vpn-enterprise, provider: vpn-enterprise}
  - {path: /webhooks/stripe, provider: stripe}
  - {path: /webhooks/svix, provider: svix}
  - {name: billing, path: /webhooks/billing, provider: github, capture: {}}
END
  mkdir -p .local/share/bash-completion/completions .local/share/man/man1
  application 4000 200
  receiver=$!
  gateway
}

to_the_gateway() { until_true "$program" send --route webhooks-vpn-enterprise; }
to_the_receiver() {
  until_true "$program" send http://127.0.0.1:4000/webhooks/vpn-enterprise --provider vpn-enterprise --secret-env WEBHOOK_SECRET
}

before() {
  case "$(cat "$STAGE/$1.sh")" in
    "hookstile catch --provider"*)
      kill $receiver
      wait $receiver
      patience=2
      sh -c "sleep 0.7" && to_the_gateway & ;;
    "hookstile capture"*)
      patience=20
      send --route billing --tamper body
      to_the_receiver & ;;
    "hookstile sign"*)
      application 4000 200 ;;
  esac
}
