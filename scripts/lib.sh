# Sourced by the scripts beside it: finds Python, makes .venv and fills it. Everything stays in the clone.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)
venv=$root/.venv
tools=$root/.tools
extras_run=embedded
extras_test=embedded,test,dev,docs

export TMPDIR=$root/.tmp # of pip, pytest and the embedded servers
export PIP_DISABLE_PIP_VERSION_CHECK=${PIP_DISABLE_PIP_VERSION_CHECK-1}
[[ -n ${PIP_CACHE_DIR-} ]] || export PIP_NO_CACHE_DIR=${PIP_NO_CACHE_DIR-1} # the default is in $HOME
export RUSTUP_HOME=$TMPDIR/rustup # pip asks rustc for its version; rustup's shim would make ~/.rustup
mkdir -p "$TMPDIR"

say() { printf 'scripts/%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$@"
    exit 1
}

# Prints the first Python that is new enough and can make an environment.
find_python() {
    local name found=()
    for name in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$name"
            return
        fi
        found+=("$name")
    done
    ((${#found[@]} == 0)) || die "${found[0]} has no venv or pip. Debian, Ubuntu: apt-get install python3-venv"
    die "no Python 3.11 or newer found. Install one, or name it: PYTHON=/path/to/python $0"
}

# What an installation is made from; it is repeated when this changes, or the clone has moved.
origin() { printf '%s\n' "$root" && cat "$root/setup.cfg" "$root/pyproject.toml"; }

# fetch_programs PACKAGE NAME...: puts files of a Debian package into .tools, without installing it.
# NAME:AS calls it AS there.
fetch_programs() {
    local package=$1 name log=$TMPDIR/fetch-$1.log missing=()
    shift
    for name; do
        [[ -e $tools/${name#*:} ]] || command -v "${name#*:}" >/dev/null || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        say "no ${missing[*]#*:}, and no apt-get to fetch the Debian package $package with"
        return 0
    fi
    say "fetching ${missing[*]#*:} of the Debian package $package into .tools"
    unpack_package "$package" "${missing[@]}" >"$log" 2>&1 || say "no ${missing[*]#*:}: see $log"
}

unpack_package() {
    local package=$1 work name found
    shift
    work=$(mktemp -d "$TMPDIR/fetch.XXXXXX")
    for _ in 1 2 3; do
        (cd "$work" && apt-get -q download "$package") && break
        apt-get -q update || sleep 2 # a new machine has no lists, or old ones
    done
    dpkg-deb --extract "$work/$package"_*.deb "$work/root" || return
    mkdir -p "$tools" "$work/out"
    for name; do
        found=$(find "$work/root/usr" -name share -prune -o -type f -name "${name%:*}" -print -quit)
        [[ -n $found ]] || return
        name=$work/out/${name#*:}
        mv "$found" "$name" || return
        [[ $(ldd "$name") != *"not found"* ]] || add_libraries "$package" "$name" "$work" || return
        mv "$name" "$tools/" || return
    done
    rm -rf "$work"
}

# add_libraries PACKAGE FILE WORK: the libraries that this machine lacks for it, and a start that finds them.
add_libraries() {
    local file=$2 name=${2##*/} work=$3 libraries
    libraries=$(apt-get -s --no-install-recommends install "$1" | awk '/^Inst lib/ {print $2}')
    # shellcheck disable=SC2086 # many words
    (cd "$work" && apt-get -q download $libraries) || return
    for library in "$work"/lib*.deb; do dpkg-deb --extract "$library" "$work/root" || return; done
    mkdir -p "$tools/lib" && find "$work/root" -name '*.so*' -exec cp -P -t "$tools/lib" {} +
    mv "$file" "$tools/lib/$name" || return
    printf '#!/bin/sh\nLD_LIBRARY_PATH=${0%%/*}/lib exec "${0%%/*}/lib/%s" "$@"\n' "$name" >"$file"
    chmod +x "$file"
}

# installed NAME: is what NAME (run, test) needs there and current?
installed() {
    local name
    for name in "$1" test; do # what tests need contains what run needs
        [[ -x $venv/bin/python && -f $venv/made-for-$name ]] || continue
        [[ $(origin) != "$(<"$venv/made-for-$name")" ]] || return 0
    done
    return 1
}

# ensure_env NAME EXTRAS
ensure_env() {
    ! installed "$1" || return 0
    exec 9>"$TMPDIR/setup.lock"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
        say "waiting for another script that is installing"
        flock 9
    fi
    installed "$1" || install "$@"
    exec 9>&-
}

install() {
    local python made=$SECONDS
    if [[ ! -x $venv/bin/python || ! -f $venv/root || $(<"$venv/root") != "$root" ]]; then
        python=$(find_python) # its message has been shown
        say "making .venv with $python ($("$python" -c 'import platform; print(platform.python_version())'))"
        "$python" -m venv --clear "$venv" 9>&-
        echo "$root" >"$venv/root"
    fi
    rm -f "$venv"/made-for-*
    say "installing daisi-ws[$2] into .venv (a minute or two the first time)"
    "$venv/bin/python" -m pip install --quiet --editable "$root[$2]" 9>&- ||
        die "installing failed, see above; pip obeys the usual PIP_* variables (PIP_INDEX_URL, PIP_PROXY, …)"
    origin >"$venv/made-for-$1"
    say "installed in $((SECONDS - made)) s"
}
