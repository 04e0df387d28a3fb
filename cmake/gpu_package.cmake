# The target gpu_package: one folder with all that a machine with a GPU needs to run our tests and benchmark, where there may
# be a driver and nothing else; gpu_package_bench does without the tests. bench/gpu/README.md
set(cottention_gpu_package ${PROJECT_BINARY_DIR}/package)

add_custom_target(
  gpu_package_bench
  COMMAND ${CMAKE_COMMAND} -DFILE=${cottention_gpu_package}/build.json -DSOURCE=${PROJECT_SOURCE_DIR}
          "-DARCHITECTURES=${CMAKE_CUDA_ARCHITECTURES}" -DNVCC=${CMAKE_CUDA_COMPILER_VERSION}
          "-DHOST=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}" -P ${PROJECT_SOURCE_DIR}/cmake/gpu_build_facts.cmake
  COMMAND ${CMAKE_COMMAND} -E copy_if_different ${PROJECT_SOURCE_DIR}/bench/gpu/run.sh ${cottention_gpu_package}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${cottention_gpu_package}/peers
  COMMAND ${CMAKE_COMMAND} -E copy_if_different ${PROJECT_SOURCE_DIR}/bench/peers/gpu/peers.py
          ${PROJECT_SOURCE_DIR}/bench/peers/gpu/rows.py ${PROJECT_SOURCE_DIR}/bench/peers/gpu/worker.py
          ${PROJECT_SOURCE_DIR}/bench/peers/gpu/variants.py ${PROJECT_SOURCE_DIR}/bench/peers/forms.py
          ${cottention_gpu_package}/peers
  VERBATIM)
add_custom_target(gpu_package)
add_dependencies(gpu_package gpu_package_bench)

# Adds a program at PATH in the package.
function(cottention_add_to_package target path)
  get_filename_component(folder ${cottention_gpu_package}/${path} DIRECTORY)
  get_filename_component(name ${path} NAME)
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${folder} OUTPUT_NAME ${name})
  # Half the size. The folder is to stay below 64 MB.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:--compress-mode=size>)
  # CUDA's runtime is static by CMake's default.
  target_link_options(${target} PRIVATE -static-libstdc++ -static-libgcc -Wl,--gc-sections -s)
  add_dependencies(gpu_package ${target})
endfunction()
