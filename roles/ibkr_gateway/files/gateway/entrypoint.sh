#!/bin/sh
# Starts IBKR's Client Portal gateway as it comes in its archive, without writing to the archive's directory.
#
# GATEWAY_HOME           unpacked archive, read only                    (/opt/gateway)
# GATEWAY_CONFIG_DIR     holds conf.yaml, keys at the line's beginning  (/run/config)
# GATEWAY_RUNTIME_DIR    writable, best a tmpfs: the secrets end there  (/run/gateway)
# GATEWAY_STATE_DIR      writable, best a volume: the working directory (/run/gateway/state)
# GATEWAY_CERT_FILE      PEM certificate, with its chain                (/run/secrets/gateway.crt)
# GATEWAY_KEY_FILE       PEM private key                                (/run/secrets/gateway.key)
#
# Exit code 2: a file or directory is missing or unusable; the line on stderr names the variable.
set -eu
umask 077

home=${GATEWAY_HOME:-/opt/gateway}
config_dir=${GATEWAY_CONFIG_DIR:-/run/config}
runtime_dir=${GATEWAY_RUNTIME_DIR:-/run/gateway}
state_dir=${GATEWAY_STATE_DIR:-$runtime_dir/state}
cert_file=${GATEWAY_CERT_FILE:-/run/secrets/gateway.crt}
key_file=${GATEWAY_KEY_FILE:-/run/secrets/gateway.key}
jar=dist/ibgroup.web.core.iblink.router.clientportal.gw.jar
main_class=ibgroup.web.core.clientportal.gw.GatewayStart

fail() {
    echo "ibkr-gateway: $1" >&2
    exit 2
}

[ -r "$home/$jar" ] || fail "GATEWAY_HOME: $home/$jar is missing; is this IBKR's clientportal.gw archive?"
[ -r "$config_dir/conf.yaml" ] || fail "GATEWAY_CONFIG_DIR: cannot read $config_dir/conf.yaml"
[ -r "$cert_file" ] || fail "GATEWAY_CERT_FILE: cannot read $cert_file"
[ -r "$key_file" ] || fail "GATEWAY_KEY_FILE: cannot read $key_file"
[ -d "$runtime_dir" ] || fail "GATEWAY_RUNTIME_DIR: $runtime_dir is not a directory"
[ -w "$runtime_dir" ] || fail "GATEWAY_RUNTIME_DIR: $runtime_dir is not writable"
[ -n "${GATEWAY_STATE_DIR:-}" ] || mkdir -p "$state_dir"
[ -d "$state_dir" ] || fail "GATEWAY_STATE_DIR: $state_dir is not a directory"
[ -w "$state_dir" ] || fail "GATEWAY_STATE_DIR: $state_dir is not writable"

# The archive looks for conf.yaml, keystore and web pages in the directory "root" of its class path, and writes into its
# working directory. The first is made anew at each start, and reached through a link as the programs are; the second is
# kept.
rm -rf "$runtime_dir/root"
mkdir "$runtime_dir/root"
if [ -d "$home/root/webapps" ]; then ln -s "$home/root/webapps" "$runtime_dir/root/webapps"; fi
for directory in "$home/bin" "$home/build" "$home/dist" "$runtime_dir/root"; do
    ln -sfn "$directory" "$state_dir/${directory##*/}"
done

# The gateway prints its whole configuration at start, so the keystore's password ends up in the log. It is a new one at
# each start, and opens nothing but a file that only this container sees and that is gone with it.
password=$(openssl rand -hex 32)
printf '%s\n' "$password" | openssl pkcs12 -export -name gateway -in "$cert_file" -inkey "$key_file" \
    -passout stdin -passin pass: -out "$runtime_dir/root/gateway.p12" \
    || fail "GATEWAY_CERT_FILE, GATEWAY_KEY_FILE: not a PEM certificate and its unencrypted key"

# conf.yaml carries no secret on the host; whatever it says of the keystore is replaced.
{
    sed '/^[[:space:]]*ssl\(Cert\|Pwd\)[[:space:]]*:/d' "$config_dir/conf.yaml"
    printf '\nsslCert: "gateway.p12"\nsslPwd: "%s"\n' "$password"
} >"$runtime_dir/root/conf.yaml"

logback=$(dirname "$0")/logback.xml
[ ! -r "$config_dir/logback.xml" ] || logback=$config_dir/logback.xml
cp "$logback" "$runtime_dir/root/logback.xml" || fail "logback.xml is missing beside $0"

cd "$state_dir"
unset password
# Vert.x copies what it reads of the class path, the keystore among it, into its cache: that may not stay.
# The configuration's path is relative to "root" in the class path, as in the archive's bin/run.sh.
exec java \
    -server \
    -XX:MaxRAMPercentage=60 \
    -XX:+ExitOnOutOfMemoryError \
    -Djava.awt.headless=true \
    -Djava.net.preferIPv4Stack=true \
    -Dvertx.cacheDirBase="$runtime_dir/vertx" \
    -Dvertx.disableDnsResolver=true \
    -Dvertx.logger-delegate-factory-class-name=io.vertx.core.logging.SLF4JLogDelegateFactory \
    -classpath "root:$jar:build/lib/runtime/*" \
    "$main_class" \
    --conf ../root/conf.yaml
