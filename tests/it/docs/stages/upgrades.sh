prepare() {
  cat >hookstile.yaml <<'END'
defaults: {provider: github, secrets: [{env: WEBHOOK_SECRET}], upstream: "http://127.0.0.1:3000/"}
routes:
  - path: /webhooks/one
  - path: /webhooks/two
  - path: /webhooks/three
END
  gateway
}
