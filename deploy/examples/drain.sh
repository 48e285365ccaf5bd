#!/bin/sh
# Takes hosts out of service when Megaphone says that they are Critical, and in again when they are not.
#
#   drain.sh DIR DRAIN [UNDRAIN]
#   drain.sh /var/lib/drain 'lb-ctl drain' 'lb-ctl ready'
#
# DRAIN and UNDRAIN are commands; the name of the host becomes their last argument. It acts on a host
# that is Critical with phase live, or because of silence; never on what is stale for another reason or
# was set by hand. It stops at 20 % of the hosts (LIMIT): what condemns a fifth of a fleet at once is more
# often the monitoring than the fleet. A host that was refused for that is not tried again by itself.
#
# The bus remembers the place of this reader (a durable consumer, NAME), DIR what is drained and what is
# being done: killed at any moment, it goes on there. An action may thus be done twice, so it must be
# idempotent. A command that fails is tried three times. Needs the nats tool; NATS_URL says where the bus is.
set -u

[ $# -ge 2 ] || { sed -n '4,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$1 drain=$2 undrain=${3-}
limit=${LIMIT-20} name=${NAME-drain} nats=${NATS_CLI-nats}
mkdir -p "$dir/drained"
say() { echo "drain.sh: $*" >&2; }

# field NAME prints a string of the event in $dir/next. A quote within a JSON string is written \", so
# that "NAME":" with plain quotes stands nowhere but where it is meant.
field() { sed -n 's/.*'"$1"'"\([^"\\]*\)".*/\1/p' "$dir/next" | head -n 1; }

hosts() { # how many there are
  "$nats" request megaphone.api.status '{"all":true}' --raw 2>/dev/null | grep -o '"checks":{"OK":' | wc -l
}

act() {
  host=$(field '"data":{"host":') status=$(field '"current":{"status":')
  phase=$(field '"current":{"status":"[A-Za-z]*","phase":') cause=$(field '"cause":')
  mark=$dir/drained/$host
  case $host in '' | -* | . | ..) return 0 ;; esac
  case $status,$phase,$cause in
  Critical,live,* | Critical,*,silence)
    [ ! -e "$mark" ] || return 0
    set -- "$dir"/drained/*
    [ -e "$1" ] || shift
    all=$(hosts)
    if [ $((($# + 1) * 100)) -gt $((limit * all)) ]; then
      say "$host is NOT drained: $# of $all hosts are, and the limit is $limit %"
      return 0
    fi
    # shellcheck disable=SC2086 # the command may have arguments
    $drain "$host" && : >"$mark" && say "$host is drained"
    ;;
  Critical,*) ;;
  *,live,*)
    [ -e "$mark" ] && [ -n "$undrain" ] || return 0
    # shellcheck disable=SC2086
    $undrain "$host" && rm "$mark" && say "$host is ready"
    ;;
  esac
}

# From now on; a consumer that is there already stays as it is.
until "$nats" consumer info CHANGES "$name" >/dev/null 2>&1 ||
  "$nats" consumer add CHANGES "$name" --filter 'megaphone.status.host.*' --pull --deliver new --ack explicit --defaults >/dev/null; do
  sleep 1
done
say "ready"

# What was read is kept in DIR until it is done. The tool writes an event before it acknowledges it, so a
# half-written one comes again.
while :; do
  if [ ! -s "$dir/next" ]; then
    "$nats" consumer next CHANGES "$name" --raw --ack --count 1 --timeout 10s >"$dir/next" 2>/dev/null || { : >"$dir/next"; sleep 1; continue; }
  fi
  for try in 1 2 3; do
    act && break
    say "it failed, attempt $try of 3"
    sleep 1
  done
  : >"$dir/next"
done
