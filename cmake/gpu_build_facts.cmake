# Writes FILE: what a package for GPUs was built from, and with what.
function(git result)
  execute_process(COMMAND git -C ${SOURCE} ${ARGN} OUTPUT_VARIABLE said ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  set(${result} "${said}" PARENT_SCOPE)
endfunction()

git(commit rev-parse HEAD)
git(changes status --porcelain --untracked-files=no)
set(modified false)
if(changes)
  set(modified true)
endif()
string(REPLACE ";" "\", \"" architectures "${ARCHITECTURES}")
file(WRITE ${FILE} "{\"commit\": \"${commit}\", \"modified\": ${modified}, \"nvcc\": \"${NVCC}\", \
\"host_compiler\": \"${HOST}\", \"architectures\": [\"${architectures}\"]}\n")
