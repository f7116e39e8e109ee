# lib.sh: shared by `up` and `down`; sourced, POSIX shell.
# PEERS_NET   the loopback /24 of the peers (default 127.0.7); another one is another set
# PEERS_RUN   state, logs and pid files (default ${TMPDIR:-/tmp}/latimer-peers-$PEERS_NET)
# PEERS_LOG   info (default) or debug
# PEERS_GUESTS  how many users there are whom nobody knows yet (default 30)
HERE=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
NET=${PEERS_NET:-127.0.7}
RUN=${PEERS_RUN:-${TMPDIR:-/tmp}/latimer-peers-$NET}
LOGLEVEL=${PEERS_LOG:-info}
ALL="prosody ejabberd kamailio"
PASSWORD=secret

case $NET in 127.*.*) ;; *) echo "PEERS_NET must lie in 127.0.0.0/8, such as 127.0.7" >&2; exit 2 ;; esac

say() { printf '%s\n' "$*" >&2; }

alive() { # NAME: is the process of RUN/NAME.pid still the one that was started?
  [ -s "$RUN/$1.pid" ] || return 1
  pid=$(cat "$RUN/$1.pid")
  [ -r "/proc/$pid/stat" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null || return 1
  # The start time guards against a pid that was given again.
  [ ! -s "$RUN/$1.start" ] || [ "$(cat "$RUN/$1.start")" = "$(awk '{print $22}' "/proc/$pid/stat" 2>/dev/null)" ]
}

started() { # NAME PID: remember it
  echo "$2" >"$RUN/$1.pid"
  awk '{print $22}' "/proc/$2/stat" >"$RUN/$1.start" 2>/dev/null || :
}

listening() { # ADDR PORT: is there a TCP listener? (from /proc/net/tcp: no connection is made)
  hex=$(printf '%s' "$1" | awk -F. '{printf "%02X%02X%02X%02X", $4, $3, $2, $1}')
  grep -qi " $hex:$(printf '%04X' "$2") 00000000:0000 0A" /proc/net/tcp
}

wait_for() { # SECONDS NAME command...: run the command until it is true
  limit=$(($1 * 20)) what=$2
  shift 2
  until "$@"; do
    limit=$((limit - 1))
    if [ "$limit" -le 0 ] || ! alive "$what"; then
      say "peers: $what did not come up; the end of its log:"
      tail -n 20 "$RUN/$what.log" >&2 2>/dev/null || :
      return 1
    fi
    sleep 0.05
  done
}

need() { # PACKAGE...: install what is missing (Debian); no service is started
  missing=
  for package in "$@"; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
      *" installed") ;;
      *) missing="$missing $package" ;;
    esac
  done
  [ -n "$missing" ] || return 0
  say "peers: installing$missing"
  made=
  if [ ! -e /usr/sbin/policy-rc.d ]; then       # keeps the packages from starting their daemons
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    made=1
  fi
  rc=0
  apt_install $missing || { apt-get -qq update >>"$RUN/apt.log" 2>&1 || :; apt_install $missing; } || rc=$?
  [ -z "$made" ] || rm -f /usr/sbin/policy-rc.d
  [ $rc = 0 ] || tail -n 20 "$RUN/apt.log" >&2
  return $rc
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y \
    --no-install-recommends install "$@" </dev/null >>"$RUN/apt.log" 2>&1
}

fill() { # FILE.in: the template with its @NAMES@ replaced
  sed -e "s|@RUN@|$RUN|g" -e "s|@NET@|$NET|g" -e "s|@LOGLEVEL@|$LOGLEVEL|g" "$1"
}

users() { # the test accounts: NAME DOMAIN
  for domain in xmpp xmpp2 nosrv direct bidi failover big expired wrongname untrusted selfsigned nomiddle ej ej2; do
    for user in alice bob; do echo "$user $domain.example"; done
  done
  # Users whom nobody knows yet: a scenario takes one, with an empty roster.
  for guest in $(seq 1 "${PEERS_GUESTS:-30}"); do
    for domain in xmpp ej; do echo "guest$guest $domain.example"; done
  done
}

stop_one() { # NAME: the process and its group (each peer leads a session of its own)
  if alive "$1"; then
    pid=$(cat "$RUN/$1.pid")
    kill -s KILL -- "-$pid" 2>/dev/null || :
    n=0
    while holds "$pid" && [ $n -lt 200 ]; do sleep 0.02; n=$((n + 1)); done
  fi
  rm -f "$RUN/$1.pid" "$RUN/$1.start"
}

# Has a killed group still got its sockets? Whoever leads a process of many threads is a
# zombie at once, and its files stay open until the last thread is gone.
holds() { # GROUP
  for member in $(pgrep -g "$1"); do
    grep -q '^State:.Z' "/proc/$member/status" 2>/dev/null || [ ! -r "/proc/$member/status" ] || return 0
    [ "$(ls "/proc/$member/task" 2>/dev/null | wc -l)" -le 1 ] || return 0
  done
  return 1
}
