# What every stage has: a network of its own, the program, and a secret for all routes.
set -u
ip link set lo up
PATH=$STAGE/bin:$PATH
unset HOOKSTILE_ADMIN HOOKSTILE_ADMIN_TOKEN HOOKSTILE_CONFIG
export WEBHOOK_SECRET=whsec_example_replace_me COLUMNS=400
program=$STAGE/bin/hookstile
failures=$STAGE/prelude.failures

# The longest life of a command in seconds. One that follows something ends after a moment.
patience=20
hookstile() {
  case "$*" in
    *tail* | *--watch*) timeout 1 "$program" "$@" ;;
    *) timeout $patience "$program" "$@" ;;
  esac
  local status=$?
  case $status in
    0 | 1) ;;
    124) return 0 ;;
    *) echo "exit status $status: hookstile $*" >>"$failures" ;;
  esac
  return $status
}

curl() {
  command curl --no-progress-meter --max-time 10 --fail-with-body "$@"
  local status=$?
  [ $status = 0 ] || echo "exit status $status: curl $*" >>"$failures"
  return $status
}

until_true() {
  local tries
  for tries in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.05
  done
  echo "never true: $*" >&2
  exit 1
}

gateway() {
  "$program" run >>"$STAGE/gateway.log" 2>&1 &
  gateway=$!
  until_true command curl -sf http://127.0.0.1:9180/readyz
}

# An application that answers with a status: application PORT STATUS
application() {
  "$program" catch --listen "127.0.0.1:$1" --status "$2" >/dev/null 2>&1 &
  until_true command curl -s "http://127.0.0.1:$1/"
}

send() {
  "$program" send "$@" >/dev/null 2>&1
}

before() { :; }

# Runs a block of the page: script LINE
script() {
  failures=$STAGE/$1.failures
  before "$1" >/dev/null
  . "$STAGE/$1.sh" >"$STAGE/$1.out" 2>&1
}
