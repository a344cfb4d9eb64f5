#!/usr/bin/env bash
# Makes what a federation of real nodes needs: a private certificate authority, the SuperLink's
# certificate, one key pair per site. Needs openssl and ssh-keygen, nothing else.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: make_credentials.sh [--san NAME]... [--days N] [--owner UID[:GID]] DIR [SITE]...

Writes below DIR, and never overwrites a file that is there:

  certs/ca.crt      certificate of the private authority    give it to every site and every user
  certs/ca.key      the authority's key                     keep it off the servers, best off-line
  certs/server.crt  certificate of SuperLink and gate       SuperLink, gate
  certs/server.key  its key                                 SuperLink, gate, nobody else
  keys/SITE         a site's private key (ECDSA, P-384)     that site only
  keys/SITE.pub     a site's public key                     register it: flwr supernode register

Run again with more SITEs, it adds their keys and leaves the rest as it is.

  --san NAME     another DNS name or IP address under which sites reach the gate, or users the SuperLink
                 (repeat it; superlink, gate, localhost, 127.0.0.1 and ::1 are always there)
  --days N       days for which the certificates hold (default 365)
  --owner U[:G]  give the files to this user, for containers that run as another user (needs root)
  --help         this text

Nothing has a password: the files' permissions (keys 0600, folders 0700) protect them.
TEXT
}

fail() {
  echo "make_credentials.sh: $1" >&2
  exit 2
}

sans=(superlink gate localhost 127.0.0.1 ::1)
days=365
owner=
positional=()
while (($#)); do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --san) (($# > 1)) || fail "--san needs a name or an address"; sans+=("$2"); shift 2 ;;
    --days) (($# > 1)) || fail "--days needs a number"; days=$2; shift 2 ;;
    --owner) (($# > 1)) || fail "--owner needs a user id"; owner=$2; shift 2 ;;
    --) shift; positional+=("$@"); break ;;
    -*) fail "unknown option $1 (see --help)" ;;
    *) positional+=("$1"); shift ;;
  esac
done

((${#positional[@]})) || fail "name the folder to write to (see --help)"
[[ $days =~ ^[1-9][0-9]*$ ]] || fail "--days=$days: give a whole number of days, 1 or more"
for tool in openssl ssh-keygen; do
  command -v "$tool" >/dev/null || fail "$tool is missing: install it (Debian: openssl, openssh-client)"
done

dir=${positional[0]}
sites=("${positional[@]:1}")
for site in ${sites[@]+"${sites[@]}"}; do
  # The name becomes a file name, a node's name and a folder in the run directory.
  [[ $site =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ && $site != *.pub ]] ||
    fail "site '$site': use letters, digits, dot, dash, underscore, not ending in .pub"
  for path in "$dir/keys/$site" "$dir/keys/$site.pub"; do
    [[ ! -e $path ]] || fail "$path is there already: move it away, or leave $site out"
  done
done

present=0
for name in ca.key ca.crt server.key server.crt; do
  [[ ! -e $dir/certs/$name ]] || present=$((present + 1))
done
((present == 0 || present == 4)) ||
  fail "$dir/certs holds $present of its 4 files: put the rest back, or move them all away"
((present == 0 || ${#sites[@]})) ||
  fail "$dir/certs is complete and no site was named: nothing to do"
((present == 0 || ${#sans[@]} == 5)) ||
  fail "--san comes too late, $dir/certs is complete: leave it out, or move its 4 files away"

entries=()
for san in "${sans[@]}"; do
  if [[ $san =~ ^[0-9]+(\.[0-9]+){3}$ || $san =~ ^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$ ]]; then
    entries+=("IP:$san")
  elif [[ $san =~ ^[A-Za-z0-9*]([A-Za-z0-9._-]*[A-Za-z0-9])?$ ]]; then
    entries+=("DNS:$san")
  else
    fail "--san '$san': neither a DNS name nor an IP address"
  fi
done
alt_names=$(IFS=,; echo "${entries[*]}")

umask 077
mkdir -p "$dir/certs" "$dir/keys"
# Everything is made aside first and then moved: a failure leaves no half set behind.
work=$(mktemp -d "$dir/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT

if ((present == 0)); then
  # OpenSSL's own command line and prompts are of no use here: only its errors are.
  openssl req -x509 -new -sha384 -nodes -days "$days" \
    -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 \
    -subj "/CN=Corolla private authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$work/ca.key" -out "$work/ca.crt" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  openssl req -new -sha384 -nodes \
    -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 \
    -subj "/CN=superlink" \
    -keyout "$work/server.key" -out "$work/server.csr" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  {
    echo "basicConstraints=critical,CA:FALSE"
    echo "keyUsage=critical,digitalSignature"
    echo "extendedKeyUsage=serverAuth"
    echo "subjectAltName=$alt_names"
  } >"$work/extensions"
  openssl x509 -req -sha384 -days "$days" -in "$work/server.csr" \
    -CA "$work/ca.crt" -CAkey "$work/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
    -extfile "$work/extensions" -out "$work/server.crt" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  chmod 644 "$work/ca.crt" "$work/server.crt"
  mv -n "$work/ca.key" "$work/ca.crt" "$work/server.key" "$work/server.crt" "$dir/certs/"
  echo "made $dir/certs for $alt_names, valid $days days"
fi

for site in ${sites[@]+"${sites[@]}"}; do
  ssh-keygen -q -t ecdsa -b 384 -N "" -C "$site" -f "$work/$site"
  chmod 644 "$work/$site.pub"
  mv -n "$work/$site" "$work/$site.pub" "$dir/keys/"
  echo "made $dir/keys/$site and $site.pub"
done

if [[ -n $owner ]]; then
  chown -R "$owner" "$dir/certs" "$dir/keys"
  chown "$owner" "$dir"
fi
