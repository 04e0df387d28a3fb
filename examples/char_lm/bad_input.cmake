# Runs PROGRAM with inputs it cannot use: each must be named on standard error, with exit code 2.
function(refuse pattern)
  execute_process(
    COMMAND ${PROGRAM} ${ARGN}
    RESULT_VARIABLE code
    ERROR_VARIABLE message
    OUTPUT_QUIET)
  if(NOT code EQUAL 2 OR NOT message MATCHES "${pattern}")
    message(SEND_ERROR "char_lm ${ARGN}\n  exit code ${code}, expected 2\n  '${message}', expected '${pattern}'")
  endif()
endfunction()

file(WRITE ${FOLDER}/empty.txt "")
file(WRITE ${FOLDER}/short.txt "Too short for a context of 256 bytes.")

refuse("missing.txt': cannot be opened" ${FOLDER}/missing.txt)
refuse("is a directory" ${FOLDER})
refuse("empty.txt': is empty" ${FOLDER}/empty.txt)
refuse("has 37 bytes, but --context 256 needs at least 514" ${FOLDER}/short.txt --context 256)
refuse("one text file at most" ${FOLDER}/short.txt ${FOLDER}/empty.txt)
refuse("--steps = 'many': must be a whole number" --steps many)
refuse("--steps = '0': must be a whole number from 1" --steps 0)
refuse("--steps = '5x'" --steps 5x)
refuse("--layers: needs a value" --layers)
refuse("--width: no such option" --width 5)
refuse("-x: no such option" -x)
refuse("--dim = 100: must be a multiple of --heads = 3" --dim 100 --heads 3)
refuse("--temperature = 'nan'" --temperature nan)
refuse("--top-p = '1.5': must be a number from 0 to 1" --top-p 1.5)
refuse("--attention = 'linear': must be cosine or softmax" --attention linear)
refuse("--device = 'tpu': must be cpu, gpu or auto" --device tpu)
refuse("--device: needs a value" --device)
refuse("--device = 'gpu': --self-test checks gradients in double, on the CPU" --device gpu --self-test)
refuse("--device = 'gpu': only cosine attention has kernels for GPUs" --device gpu --attention softmax)
# Whatever the program and the machine have: there are no kernels for heads of 10.
refuse("--device = 'gpu': " --device gpu --dim 30 --heads 3)
refuse("--save-loss = '${FOLDER}/none/loss.csv': cannot be written" --save-loss ${FOLDER}/none/loss.csv)
