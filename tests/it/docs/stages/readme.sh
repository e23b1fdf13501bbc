prepare() {
  cp block-1.yaml hookstile.yaml
}
