# Shared by the scripts here; source it. Works from any folder.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${SOFT2HARD_VENV:-$ROOT/.venv}"
PYTHON="$VENV/bin/python"

# Identifies what an environment is made from, and where: a venv does not survive being moved.
environment_id() {
    { cat "$ROOT/constraints.txt" "$ROOT/pyproject.toml"; echo "$ROOT $VENV"; } | sha256sum | cut -d' ' -f1
}

# PyTorch's CPU build is a tenth of the size of the others, so without a GPU it is tried first.
install_torch() {
    local version
    version="$(sed -n 's/^torch==//p' "$ROOT/constraints.txt")"
    if ! command -v nvidia-smi >/dev/null && "$PYTHON" -m pip install --quiet "torch==$version+cpu" 2>/dev/null; then
        return
    fi
    "$PYTHON" -m pip install --quiet "torch==$version"
}

# make_environment [EXTRAS]: the package with its dependencies in $VENV, with extras such as "test,deepspeed".
# The stamp is written last, so an installation that was cut short is made again.
make_environment() {
    local extras="${1:-}" wanted stamp
    wanted="$(environment_id)"
    stamp="$VENV/.made-with-${extras:-nothing}"
    if [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
        return
    fi
    echo "Making the environment in $VENV (once; some minutes) ..." >&2
    rm -f "$VENV"/.made-with-*
    [[ -x "$PYTHON" ]] || python3 -m venv "$VENV"
    install_torch
    # In this mode a script beside the clone, whose folder has the package's name, still finds the package.
    "$PYTHON" -m pip install --quiet --constraint "$ROOT/constraints.txt" --config-settings editable_mode=compat \
        --editable "$ROOT${extras:+[$extras]}"
    # With the extras comes all that there is without them.
    echo "$wanted" | tee "$stamp" >"$VENV/.made-with-nothing"
}

# A process takes as many threads as there are cores; more of them only wait for each other.
set_threads() {
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$1}" TOKENIZERS_PARALLELISM=false
    export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"  # spinning threads starve other programs and each other
}

# Where the real model of tests and recipes lies (scripts/fetch_smollm2).
smollm2_folder() {
    echo "${SOFT2HARD_SMOLLM2:-${XDG_CACHE_HOME:-$HOME/.cache}/soft2hard/smollm2-135m-instruct}"
}
