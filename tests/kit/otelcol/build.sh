#!/bin/sh
# build.sh DIR: makes DIR/otelcol of Debian's source packages of the Collector, without installing any of them.
# It takes 330 MB of packages, about 2 GB of disk meanwhile, and some minutes. On Debian only.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/apt/lists/partial" "$1/apt/archives/partial"
cd "$1"
work=$(pwd)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main" > apt/sid.list
: > apt/status
cat > apt/apt.conf <<END
Dir::Etc::sourcelist "$work/apt/sid.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$work/apt/lists";
Dir::State::status "$work/apt/status";
Dir::Cache::archives "$work/apt/archives";
Dir::Cache::srcpkgcache "";
Dir::Cache::pkgcache "";
END
export APT_CONFIG="$work/apt/apt.conf"
apt-get update -q
apt-get install -y -q --download-only --no-install-recommends golang-opentelemetry-collector-dev golang-go
for package in apt/archives/golang*.deb; do dpkg-deb -x "$package" root; done

go=$(echo root/usr/lib/go-1.*)
name=$(basename "$go")
mkdir -p goroot/pkg root/usr/share/gocode/src/otelcol
for part in "$work/root/usr/share/$name"/* "$work/$go"/*; do
  test "$(basename "$part")" = pkg || ln -sfn "$part" goroot/
done
ln -sfn "$work/$go/pkg/tool" "$work/root/usr/share/$name/pkg/include" goroot/pkg/
cp "$here"/*.go root/usr/share/gocode/src/otelcol/
cd root/usr/share/gocode/src/otelcol
GOROOT=$work/goroot GOPATH=$work/root/usr/share/gocode GOCACHE=$work/cache GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 \
  "$work/goroot/bin/go" build -o "$work/otelcol" .
cd "$work" && rm -rf apt root goroot cache
