# The consumer program, the same for every way of finding the library.
add_executable(consumer ../consumer.cpp ../forward_unit.cpp ../step_unit.cpp)
target_link_libraries(consumer PRIVATE cottention::cottention)
if(DEFINED EXPECT_OPENMP)
  target_compile_definitions(consumer PRIVATE EXPECT_OPENMP=$<BOOL:${EXPECT_OPENMP}>)
endif()
