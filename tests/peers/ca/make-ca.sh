#!/bin/sh
# make-ca.sh DIR: a private CA and the certificates of the test peers (EC P-256).
# make-ca.sh DIR NAME CA DAYS DOMAIN...: one more certificate, of a CA that is there.
# make-ca.sh DIR --revoke NAME CA LIST: the CA's revocation list with that certificate on it.
# A leaf carries, for each of its domains, a dNSName and a `sip:` URI (RFC 5922), and
# both the server and the client purpose unless it is named after another wish.
# id-on-xmppAddr and SRVName stand in gw-allnames alone: ejabberd 23.01 crashes its
# stream process on a peer's certificate that has an id-on-xmppAddr.
# Does nothing when DIR is complete and no further certificate is named.
set -eu
dir=$1
shift
[ $# = 0 ] && [ -e "$dir/.done" ] && exit 0
mkdir -p "$dir"
cd "$dir"

key() { [ -s "$1" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }

root() { # NAME: a self-signed CA
  key "$1.key"
  openssl req -x509 -new -key "$1.key" -out "$1.pem" -days 3650 -sha256 \
    -subj "/O=Peers test/CN=$1" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
}

intermediate() { # NAME CA: a CA below another one
  key "$1.key"
  printf '[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nO=Peers test\nCN=%s\n[ext]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n' "$1" >"$1.cnf"
  openssl req -new -key "$1.key" -config "$1.cnf" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 3650 -sha256 \
    -extfile "$1.cnf" -extensions ext -out "$1.pem" 2>/dev/null
  rm -f "$1.csr" "$1.cnf"
}

purposes=serverAuth,clientAuth
all_names=
leaf() { # NAME CA DAYS DOMAIN...   (DAYS may be `expired`, CA may be `self`)
  name=$1 ca=$2 days=$3
  shift 3
  key "$name.key"
  {
    printf '[req]\ndistinguished_name=dn\nprompt=no\nreq_extensions=ext\n[dn]\nO=Peers test\nCN=%s\n' "$1"
    printf '[ext]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n'
    printf 'extendedKeyUsage=%s\nsubjectAltName=@san\n[san]\n' "$purposes"
    n=1
    for domain in "$@"; do
      printf 'DNS.%s=%s\nURI.%s=sip:%s\n' $n "$domain" $n "$domain"
      if [ -n "$all_names" ]; then
        echo "otherName.$((3 * n))=1.3.6.1.5.5.7.8.5;UTF8:$domain"
        echo "otherName.$((3 * n + 1))=1.3.6.1.5.5.7.8.7;IA5STRING:_xmpp-server.$domain"
        echo "otherName.$((3 * n + 2))=1.3.6.1.5.5.7.8.7;IA5STRING:_sip.$domain"
      fi
      n=$((n + 1))
    done
  } >"$name.cnf"
  openssl req -new -key "$name.key" -config "$name.cnf" -out "$name.csr" 2>/dev/null
  if [ "$ca" = self ]; then
    openssl x509 -req -in "$name.csr" -signkey "$name.key" -days "$days" -sha256 \
      -extfile "$name.cnf" -extensions ext -out "$name.pem" 2>/dev/null
  elif [ "$days" = expired ]; then
    : >index.txt
    printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\npolicy=p\nunique_subject=no\n[p]\n' >ca.cnf
    openssl ca -batch -notext -config ca.cnf -rand_serial -cert "$ca.pem" -keyfile "$ca.key" \
      -startdate 20200101000000Z -enddate 20210101000000Z -extfile "$name.cnf" -extensions ext \
      -preserveDN -in "$name.csr" -out "$name.pem" 2>/dev/null
  else
    openssl x509 -req -in "$name.csr" -CA "$ca.pem" -CAkey "$ca.key" -CAcreateserial \
      -days "$days" -sha256 -extfile "$name.cnf" -extensions ext -out "$name.pem" 2>/dev/null
  fi
  cat "$name.pem" "$name.key" >"$name-both.pem"
  rm -f "$name.csr" "$name.cnf"
}

if [ "${1:-}" = --revoke ]; then
  : >index.txt
  echo 01 >crlnumber
  printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\n' >ca.cnf
  printf 'default_crl_days=30\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid:always\n' >>ca.cnf
  openssl ca -config ca.cnf -cert "$3.pem" -keyfile "$3.key" -revoke "$2.pem" 2>/dev/null
  openssl ca -config ca.cnf -cert "$3.pem" -keyfile "$3.key" -gencrl -out "$4.pem" 2>/dev/null
  rm -f index.txt* crlnumber* ca.cnf
  exit
fi
if [ $# != 0 ]; then
  leaf "$@"
  chmod 644 "$1.key" "$1.pem" "$1-both.pem"
  exit
fi

root ca                                                # trusted by every peer
root otherca                                           # trusted by none
intermediate middleca ca
leaf prosody  ca 3650 xmpp.example xmpp2.example direct.example bidi.example failover.example big.example prosody.example
leaf ejabberd ca 3650 ej.example ej2.example ejabberd.example
leaf kamailio ca 3650 sip.example sip2.example sip3.example gw.xmpp.example gw.ej.example kamailio.example
# the ways a partner's certificate can be bad
leaf expired    ca expired expired.example
leaf wrongname  ca 3650 somebody-else.example
leaf untrusted  otherca 3650 untrusted.example
leaf selfsigned self 3650 selfsigned.example
leaf nomiddle   middleca 3650 nomiddle.example
# the gateway's: its SIP face (the XMPP domains) and its XMPP face (the SIP domains)
ours="gw.example sip.example sip2.example sip3.example sip4.example xmpp.example xmpp2.example ej.example ej2.example"
leaf gw ca 3650 $ours
purposes=serverAuth                                    # what public CAs issue since 2026
leaf gw-serveronly ca 3650 $ours
purposes=serverAuth,clientAuth
all_names=1
leaf gw-allnames ca 3650 $ours
all_names=
leaf gw-wrongname ca 3650 somebody-else.example
leaf gw-expired ca expired $ours
leaf gw-untrusted otherca 3650 $ours
leaf gw-selfsigned self 3650 $ours
chmod 644 ./*.key ./*.pem
rm -f index.txt* serial* ca.cnf ./[0-9A-F][0-9A-F][0-9A-F][0-9A-F]*.pem ./*.srl
: >.done
