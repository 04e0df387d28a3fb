# Checks of the tree and of the package, as ctest tests.
set(cottention_include ${PROJECT_SOURCE_DIR}/include)
set(cottention_consumer ${CMAKE_CURRENT_SOURCE_DIR}/package)
set(cottention_check_flags -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(COTTENTION_WERROR)
  list(APPEND cottention_check_flags -Werror)
endif()

# A test that runs cmake/SCRIPT with the arguments that follow.
function(cottention_add_check name script)
  add_test(NAME "check/${name}" COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/cmake/${script} ${ARGN})
  set_tests_properties("check/${name}" PROPERTIES TIMEOUT 300 SKIP_RETURN_CODE 77 ENVIRONMENT OMP_WAIT_POLICY=passive)
endfunction()

cottention_add_check("headers keep to their layers" layer_check.py ${cottention_include})
cottention_add_check("the layer check finds each fault" layer_check.py --self-test)
cottention_add_check("the spill check finds each fault" spill_check.py --self-test)

cottention_add_check("the page of calls has what the headers have" api_check.py ${PROJECT_SOURCE_DIR})
cottention_add_check("the check of that page finds each fault" api_check.py --self-test)

# Programs for GPUs are run by the emulator, which is so built even where no test is.
set_target_properties(cottention_emulation PROPERTIES EXCLUDE_FROM_ALL OFF)
cottention_add_check("the code and the commands of every page run in an empty folder" docs_check.py ${PROJECT_SOURCE_DIR}
                     ${CMAKE_CURRENT_BINARY_DIR}/docs ${CMAKE_CXX_COMPILER} $<TARGET_FILE:cottention_emulation>)
cottention_add_check("the check of pages finds each fault" docs_check.py --self-test ${CMAKE_CURRENT_BINARY_DIR}/docs_faults
                     ${CMAKE_CXX_COMPILER})
cottention_add_check("the oldest compilers are the same everywhere" versions_check.py ${PROJECT_SOURCE_DIR})

cottention_add_check("each header compiles alone" header_check.py ${cottention_include} ${CMAKE_CXX_COMPILER}
                     ${cottention_check_flags})

# With this build's compiler, and with the other of g++ and clang++ where there is one that is new enough.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(cottention_compilers g++ clang++)
  set(cottention_oldest_other 14)
else()
  set(cottention_compilers clang++ g++)
  set(cottention_oldest_other 12)
endif()
list(GET cottention_compilers 1 other)
find_program(COTTENTION_OTHER_COMPILER ${other})
set(other_version 0)
if(COTTENTION_OTHER_COMPILER)
  execute_process(COMMAND ${COTTENTION_OTHER_COMPILER} -dumpversion OUTPUT_VARIABLE other_version
                                                                    OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
if(other_version VERSION_LESS cottention_oldest_other)
  message(STATUS "cottention: no ${other} of version ${cottention_oldest_other}; the package is checked without it")
  list(REMOVE_AT cottention_compilers 1)
endif()
# With the other compiler where there is one: the tests of kernels are compiled with this one.
set(compiler ${CMAKE_CXX_COMPILER})
list(LENGTH cottention_compilers count)
if(count GREATER 1)
  set(compiler ${COTTENTION_OTHER_COMPILER})
endif()
cottention_add_check(
  "each CUDA header compiles alone in the emulator" header_check.py --emulation
  ${CMAKE_CURRENT_SOURCE_DIR}/emulation/include ${cottention_include} ${compiler} ${cottention_check_flags})

set(compiler ${CMAKE_CXX_COMPILER})
foreach(name IN LISTS cottention_compilers)
  cottention_add_check("misuse is refused with its reason by ${name}" compile_fail_check.py
                       ${CMAKE_CURRENT_SOURCE_DIR}/compile_fail ${cottention_include} ${compiler})
  cottention_add_check("unfit compilers, standards and flags are refused in one message by ${name}" requirements_check.py
                       ${CMAKE_CURRENT_SOURCE_DIR}/requirements ${cottention_include} ${compiler})
  if(NOT compiler STREQUAL CMAKE_CXX_COMPILER) # with that the commands of the README are run
    cottention_add_check("a copied include folder works with ${name}" copy_in_check.py ${cottention_include}
                         ${cottention_consumer} ${compiler})
  endif()
  set(compiler ${COTTENTION_OTHER_COMPILER})
endforeach()
cottention_add_check("units for different processors link into one program" mixed_targets_check.py
                     ${cottention_include} ${cottention_consumer} ${CMAKE_CXX_COMPILER})

# Compiled alone: that they compile is the test.
foreach(name cpu cuda)
  add_test(NAME "check/no public or internal name is a macro of a common header: ${name}"
           COMMAND ${CMAKE_CXX_COMPILER} -std=c++20 -fsyntax-only -Wno-unknown-pragmas -I ${CMAKE_CURRENT_SOURCE_DIR}
                   $<$<STREQUAL:${name},cuda>:-I${CMAKE_CURRENT_SOURCE_DIR}/emulation/include> -I ${cottention_include}
                   ${CMAKE_CURRENT_SOURCE_DIR}/requirements/names_${name}.cpp COMMAND_EXPAND_LISTS)
endforeach()

# A project of its own in package/FOLDER, configured with the options that follow, built and run.
function(cottention_add_consumer name folder)
  string(MAKE_C_IDENTIFIER "${name}" build)
  add_test(
    NAME "package/${name}"
    COMMAND
      ${CMAKE_CTEST_COMMAND} --build-and-test ${cottention_consumer}/${folder} ${cottention_packages}/${build}
      --build-generator ${CMAKE_GENERATOR} --build-makeprogram ${CMAKE_MAKE_PROGRAM} --build-options
      -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER} -DCMAKE_CXX_FLAGS=-O0 -DCOTTENTION_SOURCE=${PROJECT_SOURCE_DIR}
      -DCMAKE_PREFIX_PATH=${cottention_prefix} ${ARGN} --test-command consumer)
  set_tests_properties("package/${name}" PROPERTIES TIMEOUT 300 ENVIRONMENT OMP_WAIT_POLICY=passive FIXTURES_REQUIRED
                                                                                               cottention_packages)
endfunction()

# The first test empties the folder that all of them work in.
set(cottention_packages ${CMAKE_CURRENT_BINARY_DIR}/package)
set(cottention_prefix ${cottention_packages}/prefix)
find_package(OpenMP QUIET COMPONENTS CXX)
set(cottention_openmp $<BOOL:${OpenMP_CXX_FOUND}>)

add_test(NAME "package/installs" COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR} -DPREFIX=${cottention_prefix}
                                         -DFOLDER=${cottention_packages} -P ${PROJECT_SOURCE_DIR}/cmake/install_afresh.cmake)
set_tests_properties("package/installs" PROPERTIES FIXTURES_SETUP cottention_packages)
cottention_add_consumer("find_package" find_package -DEXPECT_OPENMP=${cottention_openmp})
cottention_add_consumer("find_package without OpenMP on the machine" find_package
                        -DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON -DEXPECT_OPENMP=0)
cottention_add_consumer("find_package with OpenMP declined" find_package -DCOTTENTION_OPENMP=OFF -DEXPECT_OPENMP=0)
cottention_add_consumer("add_subdirectory" add_subdirectory -DEXPECT_OPENMP=${cottention_openmp})
cottention_add_consumer("find_package without C++" no_cxx)
cottention_add_consumer("add_subdirectory without C++" no_cxx -DFROM_SOURCES=ON)

# Packages for others. The one of conan is built where there is conan: COTTENTION_CONAN is a folder for PYTHONPATH.
set(COTTENTION_CONAN "" CACHE PATH "Folder that conan was installed into by pip install --target; empty: the conan of the PATH")
cottention_add_check("every package has the version of the header" package_check.py versions ${PROJECT_SOURCE_DIR})
cottention_add_check("pkg-config finds an installation that was moved" package_check.py pkg-config ${cottention_prefix}
                     ${CMAKE_CXX_COMPILER} ${cottention_packages}/pkg_config)
set_tests_properties("check/pkg-config finds an installation that was moved" PROPERTIES FIXTURES_REQUIRED cottention_packages)
foreach(name vcpkg conan)
  cottention_add_check("${name} builds a package from the clone that a project finds" package_check.py ${name}
                       ${PROJECT_SOURCE_DIR} ${CMAKE_COMMAND} ${CMAKE_CURRENT_BINARY_DIR}/${name})
endforeach()
set_property(TEST "check/conan builds a package from the clone that a project finds" APPEND
             PROPERTY ENVIRONMENT PYTHONPATH=${COTTENTION_CONAN})
