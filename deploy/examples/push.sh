#!/bin/sh
# Pushes the status of something to Megaphone for as long as it runs.
#
#   push.sh URL HOST ID TTL COMMAND [ARGUMENT...]
#   push.sh http://127.0.0.1:18001 web01 queue/depth 60s ./queue-is-short
#
# COMMAND is run every third of TTL (a number of seconds, or 60s). Exit 0 is OK, 1 Warning, 2 Critical,
# anything else Unknown; the first line it prints is the message. A push that fails is made good by the
# next one, well before TTL is over. Killed with TERM or INT (^C) it takes the check away: good-bye.
# Killed otherwise it falls silent, and after TTL the check is Critical. Needs curl.
set -u

[ $# -ge 5 ] || { sed -n '4,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
base=${1%/} host=$2 id=$3 ttl=${4%s}
shift 4
case $ttl in
'' | *[!0-9]* | 0*) echo "push.sh: TTL is a number of seconds, such as 60s" >&2; exit 2 ;;
esac

# encode prints $1 as one segment of a path: every byte but A-Z a-z 0-9 . _ ~ - as %XX. A name of dots
# alone would be a step in the path.
encode() {
  case $1 in . | ..) printf '%s' "$1" | sed 's/\./%2E/g'; return ;; esac
  printf '%s' "$1" | od -An -v -tu1 | LC_ALL=C awk '{
    for (i = 1; i <= NF; i++) {
      c = sprintf("%c", $i)
      printf "%s", c ~ /^[A-Za-z0-9._~-]$/ ? c : sprintf("%%%02X", $i)
    }
  }'
}

# quote prints $1 as a JSON string, without its control characters.
quote() {
  printf '"%s"' "$(printf '%s' "$1" | LC_ALL=C tr -d '\000-\037\177' | LC_ALL=C sed 's/[\\"]/\\&/g')"
}

# call METHOD URL [BODY]
call() {
  curl --silent --show-error --fail --output /dev/null --max-time 10 --path-as-is --request "$1" \
    --header 'Content-Type: application/json' ${3+--data-binary "$3"} "$2"
}

check=$base/hosts/$(encode "$host")/checks/$(encode "$id")

register() {
  call PUT "$check" "{\"id\":$(quote "$id"),\"ttl\":\"${ttl}s\"}"
}

push() {
  output=$(timeout "$beat" "$@" 2>&1)
  case $? in
  0) status=OK ;;
  1) status=Warning ;;
  2) status=Critical ;;
  124) status=Unknown output="$1 takes longer than $beat s" ;;
  *) status=Unknown ;;
  esac
  message=$(printf '%s\n' "$output" | head -n 1 | cut -c 1-1000)
  call PUT "$check/status" "{\"status\":\"$status\",\"message\":$(quote "$message")}"
}

pause=
goodbye() {
  trap '' TERM INT
  [ -z "$pause" ] || kill "$pause" 2>/dev/null
  call DELETE "$check" && exit 0
  exit 1
}
trap goodbye TERM INT

# A third, but not less than a second: sleep takes whole seconds everywhere.
beat=$((ttl / 3))
[ "$beat" -ge 1 ] || beat=1

registered=
while :; do
  # Repeated until it succeeds: Megaphone may start later than this. And again after a push that
  # failed, should the check have been taken away; registering what is registered changes nothing.
  [ -n "$registered" ] || { register && registered=yes; }
  [ -z "$registered" ] || push "$@" || registered=
  # In the background, because a shell handles a signal only between commands and in wait.
  sleep "$beat" &
  pause=$!
  wait "$pause"
done
