# Where CUDA is enabled, says once that CMAKE_CUDA_ARCHITECTURES has 90 and not 90a. `all` and `all-major` stand for 90 among
# others, and `native` for 90-real where there is such a device.
get_property(cottention_languages GLOBAL PROPERTY ENABLED_LANGUAGES)
get_property(cottention_said GLOBAL PROPERTY cottention_said_90a)
set(cottention_architectures ${CMAKE_CUDA_ARCHITECTURES})
if(cottention_architectures STREQUAL "native")
  set(cottention_architectures ${CMAKE_CUDA_ARCHITECTURES_NATIVE})
endif()
if("CUDA" IN_LIST cottention_languages
   AND cottention_architectures MATCHES "(^|;)(90(-real|-virtual)?|all|all-major)(;|$)"
   AND NOT cottention_architectures MATCHES "(^|;)90a"
   AND NOT cottention_said
   AND NOT cottention_FIND_QUIETLY)
  list(TRANSFORM cottention_architectures REPLACE "^90" "90a")
  string(REGEX REPLACE "^all.*" "80;90a;100, or what else is wanted with 90a" cottention_architectures "${cottention_architectures}")
  message(STATUS "cottention: calls of 16-bit types are slower on H100 and H200 in code for 90 than in code for 90a, which has "
                 "wgmma. Remedy: CMAKE_CUDA_ARCHITECTURES=${cottention_architectures}")
  set_property(GLOBAL PROPERTY cottention_said_90a ON)
endif()
unset(cottention_architectures)
unset(cottention_said)
unset(cottention_languages)
