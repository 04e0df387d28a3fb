#!/usr/bin/env bash
# Runs what is in this folder on a machine with a GPU: tests, timings, sanitizer. Needs a driver and nothing else.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: ./run.sh [PART...] [OPTION...]

  tests       the test programs: device and device_sm90 first, calls, which takes longest, in the end
  bench       timings, as fractions of what copies in device memory reach in the same run
  peers       the same rows computed by flash-linear-attention, torch's scaled_dot_product_attention and plain PyTorch, where
              python3 has PyTorch for the GPU
  sanitizer   some of the tests under compute-sanitizer, where that is on the PATH: memcheck and racecheck
              Without a PART: all four, in under eight minutes; peers alone may take five of them.

  --programs REGEX   only test programs whose name matches: device, step, forward_bf16, ...
  --cases SPEC       only test cases that Catch2's test specification selects
  --preset NAME      which rows: standard, the default; sweep, over length, head dimension and batch x heads; authors, the
                     sizes that the authors of the paper time; all, standard and sweep. Beyond standard, bench may take ten
                     minutes and peers thirty
  --rows REGEX       only rows of the benchmark whose name contains a match; also --filter REGEX
  --variants         tilings and splits beside the library's choice too
  --seconds S        of measuring, for each row; default 0.25
  --out FOLDER       where the JSON file goes; default $OUT, or else this folder's results
  --list             name programs and rows and stop

Results are written every few seconds: a run that is interrupted or killed leaves what there is by then.
TEXT
}

die() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bench="$here/cottention_bench_gpu"
parts=""
programs="."
cases=""
rows=(--rows=)
preset=standard
out=${OUT:-$here/results}
list=no
# Seconds that each part may take. What has not ended by then is stopped, and recorded as that.
tests_limit=150
sanitizer_limit=110
bench_limit=110
peers_limit=100

while [ $# -gt 0 ]; do
  case $1 in
    --programs | --cases | --preset | --rows | --filter | --seconds | --out)
      [ $# -ge 2 ] || die "$1 needs a value"
      case $1 in
        --programs) programs=$2 ;;
        --cases) cases=$2 ;;
        --preset) preset=$2 ;;
        --rows | --filter) rows+=("--rows=$2") ;;
        --seconds) rows+=("--seconds=$2") ;;
        --out) out=$2 ;;
      esac
      shift
      ;;
    --variants) rows+=(--variants) ;;
    --list) list=yes ;;
    tests | sanitizer | bench | peers) parts+=" $1" ;;
    -h | --help | help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      die "no part or option $1"
      ;;
  esac
  shift
done
[ -n "$parts" ] || parts="tests bench peers sanitizer"
[[ $parts == *tests* || $parts == *sanitizer* ]] || peers_limit=300
case $preset in
  standard) ;;
  sweep | authors | all)
    bench_limit=600
    peers_limit=1800
    ;;
  *) die "no preset $preset: standard, sweep, authors or all" ;;
esac
rows+=("--preset=$preset")

wants() { [[ " $parts " == *" $1 "* ]]; }
# JSON's string of one line of text.
quoted() { printf '"%s"' "$(printf '%s' "$1" | tr '\n\t' '  ' | sed 's/[\\"]/\\&/g')"; }
# A list of JSON values, one on each line of standard input.
listed() { sed '/^$/d' | paste -sd, -; }

# What the others are made of comes first, what takes longest last.
selected_programs() {
  local path name names=()
  for path in "$here"/tests/*; do
    [ -x "$path" ] && names+=("${path##*/}") # none, where only the benchmark was built
  done
  for name in $(printf '%s\n' "${names[@]}" | sed 's/^device/0 &/; t; s/^calls$/2 &/; t; s/^/1 /' | sort | cut -d ' ' -f 2); do
    [[ $name =~ $programs ]] || continue
    # Some programs have code for devices of one compute capability alone.
    if [[ $name =~ _sm([0-9]+)$ ]] && [ "$capability" != any ] && [ "$capability" -ne "${BASH_REMATCH[1]}" ]; then continue; fi
    printf '%s\n' "$name"
  done
}

# limited SECONDS COMMAND...: runs a command for so long at most, and ends it where we are interrupted; then the parts that
# follow do nothing, and what there is is written. In the background, since bash would let it run to its end before it heard
# of a signal.
running=""
interrupted=no
limited() {
  local status=130
  [ $interrupted = no ] || return $status
  timeout -k 5 "$@" &
  running=$!
  [ $interrupted = no ] || on_interrupt # before there was a process to end
  wait "$running"
  status=$?
  if [ $interrupted = yes ]; then
    wait "$running" # for its end, where a signal had ended the waiting
    status=130
  fi
  running=""
  return $status
}
on_interrupt() {
  interrupted=yes
  failed=1
  [ -z "$running" ] || kill -TERM "$running" 2>/dev/null
}

# The driver's version, which CUDA's runtime does not tell.
driver_version() {
  local version=""
  if command -v nvidia-smi >/dev/null; then
    version=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
  fi
  [ -n "$version" ] || version=$(sed -n '1s/.* \([0-9][0-9.]*\)  .*/\1/p' /proc/driver/nvidia/version 2>/dev/null)
  printf '%s' "${version:-unknown}"
}

# run_program PART NAME SECONDS COMMAND...: runs a test program, prints a line on it and adds to the part's records.
run_program() {
  local part=$1 name=$2 seconds=$3 status report="$work/report" log="$work/log" ended="null" started=$SECONDS
  shift 3
  rm -f "$report"
  COTTENTION_REPORT="$report" limited "$seconds" "$@" >"$log" 2>&1
  status=$?
  # Nobody waits for all that the sanitizer could check.
  if [ $status -ne 0 ] && [ "$part $status" != "sanitizer 124" ]; then failed=1; fi
  case $status in
    0) printf '%-28s passed in %d s\n' "$name" $((SECONDS - started)) ;;
    130)
      ended='"interrupted"'
      printf '%-28s interrupted\n' "$name"
      ;;
    124)
      ended='"stopped: out of time"'
      printf '%-28s stopped after %d s\n' "$name" $((SECONDS - started))
      ;;
    *)
      grep -q '"running": null' "$report" 2>/dev/null || ended="\"ended with status $status\""
      printf '%-28s FAILED with status %d\n' "$name" "$status"
      ;;
  esac
  if [ $status -ne 0 ] && [ $status -ne 124 ] && [ $status -ne 130 ]; then grep -v '^$' "$log" | tail -n 60; fi
  printf '{"program": %s, "status": %d, "ended": %s, "seconds": %d, "last_line": %s, "report": %s}\n' "$(quoted "$name")" \
    $status "$ended" $((SECONDS - started)) "$(quoted "$(grep -v '^$' "$log" | tail -n 1)")" \
    "$([ -s "$report" ] && cat "$report" || echo null)" >>"$work/$part"
}

# not_started PART NAME
not_started() {
  printf '%-28s not started: out of time\n' "$2"
  printf '{"program": %s, "ended": "not started: out of time"}\n' "$(quoted "$2")" >>"$work/$1"
}

# A program may take half of the time that is left, since one that hangs must leave some to others, and the last one all of it.
run_tests() {
  local deadline=$((SECONDS + tests_limit)) name left seconds
  printf '\n==> tests\n'
  if [ -z "$(selected_programs)" ]; then
    echo "no test program here matches $programs"
    failed=1
  fi
  left=$(selected_programs | wc -l)
  for name in $(selected_programs); do
    [ $interrupted = no ] || return
    left=$((left - 1))
    seconds=$(((deadline - SECONDS) / (left > 0 ? 2 : 1)))
    if [ $seconds -le 0 ]; then
      not_started tests "$name"
      failed=1
      continue
    fi
    run_program tests "$name" $seconds "$here/tests/$name" ${cases:+"$cases"}
  done
}

# What takes long without it takes many times as long with it, so each program gets its share of the time, and the longest
# cases are left out.
run_sanitizer() {
  local deadline=$((SECONDS + sanitizer_limit)) tool name share left
  local names=() options
  printf '\n==> sanitizer\n'
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not on the PATH"
    return
  fi
  mapfile -t names < <(selected_programs)
  [ ${#names[@]} -gt 0 ] || return
  left=$((2 * ${#names[@]}))
  for tool in racecheck memcheck; do
    options=(--tool "$tool" --error-exitcode 99)
    # Tests provoke errors of the runtime on purpose, and look at them.
    if [ $tool = memcheck ]; then options+=(--report-api-errors no); fi
    for name in "${names[@]}"; do
      [ $interrupted = no ] || return
      share=$(((deadline - SECONDS) / left))
      left=$((left - 1))
      if [ $share -le 0 ]; then
        not_started sanitizer "$tool $name"
        continue
      fi
      run_program sanitizer "$tool $name" $share compute-sanitizer "${options[@]}" "$here/tests/$name" "${cases:-~[long]~[.]}"
    done
  done
}

run_bench() {
  printf '\n==> bench\n'
  # A row takes seconds at most.
  limited $bench_limit "$bench" "${rows[@]}" "--limit=$((bench_limit - 20))" "--json=$work/bench" || failed=1
}

# On the rows that the benchmark has.
run_peers() {
  local own=("$here/peers/peers.py" "--json=$work/peers" "--limit=$((peers_limit - 20))" --patience 60) option
  printf '\n==> peers\n'
  if ! command -v python3 >/dev/null; then
    echo "there is no python3"
    echo '{"missing": "there is no python3"}' >"$work/peers"
    return
  fi
  "$bench" "--preset=$preset" --list >"$work/rows"
  own+=("--rows-from=$work/rows")
  for option in "${rows[@]}"; do
    case $option in --rows=* | --seconds=* | --preset=*) own+=("$option") ;; esac
  done
  # Ended by their own limits: what comes after it is there for a worker that does not end.
  limited $((peers_limit + 60)) python3 "${own[@]}"
}

# Sets file, which no earlier run has.
name_results() {
  local slug number=1
  slug=$(printf '%s' "$gpu" | tr '[:upper:]' '[:lower:]' | tr -cs '[:lower:][:digit:]' '-' | sed 's/^-//; s/-$//')
  mkdir -p "$out" || die "cannot write to $out"
  file="$out/$(date +%F)-$slug.json"
  while [ -e "$file" ]; do
    number=$((number + 1))
    file="$out/$(date +%F)-$slug-$number.json"
  done
  : >"$file" || die "cannot write to $out"
}

# write_results INTERRUPTED: of what there is, into file.
write_results() {
  local fresh="$work/results"
  {
    printf '{"date": "%s", "arguments": %s, "interrupted": %s,\n' "$(date -u +%FT%TZ)" "$(quoted "$arguments")" "$1"
    printf '"machine": %s,\n"driver": %s,\n"build": %s,\n' "$machine" "$(quoted "$driver")" \
      "$(cat "$here/build.json" 2>/dev/null || echo null)"
    printf '"tests": [%s],\n' "$(listed <"$work/tests")"
    printf '"sanitizer": [%s],\n' "$(listed <"$work/sanitizer")"
    printf '"bench": %s,\n' "$([ -s "$work/bench" ] && cat "$work/bench" || echo null)"
    printf '"peers": %s}\n' "$([ -s "$work/peers" ] && cat "$work/peers" || echo null)"
  } >"$fresh.$BASHPID" && cp "$fresh.$BASHPID" "$file.new" && mv "$file.new" "$file"
}

arguments="$parts --programs $programs --cases $cases ${rows[*]}"
if [ $list = yes ]; then
  capability=any
  selected_programs
  exec "$bench" "${rows[@]}" --variants --list
fi
machine=$("$bench" --machine) || die "no GPU that this can run on"
gpu=$(printf '%s' "$machine" | sed 's/^{"name": "\([^"]*\)".*/\1/')
capability=$(printf '%s' "$machine" | sed 's/.*"compute_capability": \([0-9]*\).*/\1/')
driver=$(driver_version)
printf '%s, driver %s\n' "$gpu" "$driver"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap on_interrupt INT TERM HUP
touch "$work/tests" "$work/sanitizer"
name_results
failed=0
# For a run that is killed: until it ends, its results are those of an interrupted one.
while sleep 3 && kill -0 $$; do write_results true; done >/dev/null 2>&1 &
writer=$!
for part in tests bench peers sanitizer; do
  if wants $part && [ $interrupted = no ]; then run_$part; fi
done
kill $writer 2>/dev/null
wait $writer 2>/dev/null
write_results "$([ $interrupted = yes ] && echo true || echo false)"
printf '\nResults: %s\n' "$file"
exit $failed
