// What the machine must notice: kernels that are written here, each with one mistake, and the same without
// it.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "engine/decode.hpp"
#include "engine/machine.hpp"
#include "engine/profile.hpp"
#include "support/catch.hpp"

namespace {

using namespace cottention::ptx;

/// Runs `body` in blocks of `threads` threads that have 1,024 bytes of shared memory and 32 words at %rd1.
/// Returns what the machine says, or nothing.
std::string outcome(const std::string& body, std::uint32_t threads = 32) {
  const Module module(
      ".version 9.0\n.target sm_80\n.address_size 64\n"
      ".extern .shared .align 1024 .b8 memory[];\n"
      ".visible .entry kernel(.param .u64 out)\n.maxntid 64, 1, 1\n{\n"
      ".reg .pred %p<9>;\n.reg .b32 %r<9>;\n.reg .f32 %f<9>;\n.reg .b64 %rd<9>;\n"
      "ld.param.u64 %rd1, [out];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd2, %rd1, "
      "%rd2;\n"
      "shl.b32 %r2, %r1, 4;\nmov.u32 %r3, memory;\nadd.s32 %r2, %r2, %r3;\n" +
      body + "ret;\n}\n");
  Launch launch{{}, {threads, 1, 1}, 1024, std::vector<std::uint8_t>(8)};
  const std::uint64_t out = global_memory().allocate(32 * 4);
  std::memcpy(launch.params.data(), &out, sizeof out);
  std::string text;
  try {
    run(decode(module, "kernel", {}), launch);
  } catch (const Error& error) {
    text = error.what();
  }
  CHECK(global_memory().release(out));
  return text;
}

bool tells(const std::string& text, const std::string& what) {
  INFO(text);
  return text.find(what) != std::string::npos;
}

}  // namespace

TEST_CASE("The machine reports accesses outside global memory, with their line") {
  CHECK(outcome("st.global.u32 [%rd2], %r1;\n").empty());
  const std::string text = outcome("st.global.u32 [%rd2+4], %r1;\n");
  CHECK(tells(text, "lane 31: access outside every allocation"));
  CHECK(tells(text, "st.global.u32 [%rd2+4], %r1;"));
}

TEST_CASE("The machine reports accesses outside shared memory, and misaligned ones") {
  CHECK(outcome("ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r2+512];\n").empty());
  CHECK(tells(outcome("ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r2+528];\n"),
              "outside the block's shared memory"));
  CHECK(tells(outcome("ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r2+8];\n"), "misaligned"));
}

TEST_CASE("The machine reports barriers that a warp never reaches") {
  CHECK(outcome("bar.sync 0;\n", 64).empty());
  CHECK(tells(outcome("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra OVER;\nbar.sync 0;\nOVER:\n", 64), "deadlock"));
}

TEST_CASE("The machine reports lanes that miss a shuffle, and waits for those that are late") {
  const std::string late = "setp.lt.u32 %p1, %r1, 7;\n@%p1 bra OVER;\nadd.s32 %r1, %r1, 1;\nOVER:\n";
  const std::string shuffle = "shfl.sync.bfly.b32 %r4|%p2, %r1, 1, 31, -1;\n";
  CHECK(outcome(late + shuffle).empty());
  CHECK(tells(outcome("setp.lt.u32 %p1, %r1, 7;\n@%p1 bra OVER;\n" + shuffle + "OVER:\n"), "deadlock"));
}

TEST_CASE("The machine refuses what it does not know") {
  CHECK(tells(outcome("tanh.approx.f32 %f1, %f2;\n"), "unknown instruction"));
  CHECK(tells(outcome("ld.global.L2::128B.u32 %r4, [%rd2];\n"), "unknown form"));
}

TEST_CASE("Copies land when they are waited for, and not before") {
  // Thread 0 copies zeros, and traps where it finds something else.
  const std::string begin =
      "mov.u32 %r4, 0;\nst.global.u32 [%rd2], %r4;\nbar.warp.sync -1;\n"
      "setp.ne.s32 %p1, %r1, 0;\n@%p1 bra OVER;\n"
      "cp.async.cg.shared.global [%r2], [%rd1], 16, 16;\ncp.async.commit_group;\n";
  const std::string check =
      "ld.shared.u32 %r5, [%r2];\nsetp.eq.s32 %p2, %r5, 0;\n@%p2 bra OVER;\ntrap;\nOVER:\n";
  CHECK(outcome(begin + "cp.async.wait_group 0;\n" + check).empty());
  CHECK(tells(outcome(begin + "cp.async.wait_group 1;\n" + check), "trap"));
}

TEST_CASE("The profile counts what warps execute: in loops again, in a part of a warp once more") {
  profile().clear();
  CHECK(outcome("mov.u32 %r4, 0;\nAGAIN:\nadd.s32 %r4, %r4, 1;\nsetp.lt.u32 %p1, %r4, 3;\n@%p1 bra AGAIN;\n"
                "setp.lt.u32 %p2, %r1, 7;\n@%p2 bra SOME;\nxor.b32 %r5, %r1, %r1;\nbra OVER;\n"
                "SOME:\nxor.b32 %r5, %r1, %r1;\nOVER:\nst.global.u32 [%rd1], %r5;\n",
                64)
            .empty());
  const KernelProfile& kernel = profile().at("kernel");
  CHECK(kernel.blocks == 1);
  CHECK(kernel.times("setp.lt.u32") == 2 * (3 + 1));
  CHECK(kernel.times("xor") == 2 + 1);  // the second warp has no lane below 7
  CHECK(kernel.times("st.global") == 2);
}

TEST_CASE("The profile counts by warpgroups, and one pass of a loop that waits for an mbarrier") {
  for (int orders = 0; orders < 2; ++orders) {  // in one of them the fifth warp arrives last
    profile().clear();
    CHECK(outcome("setp.ne.u32 %p1, %r1, 0;\n@%p1 bra READY;\nmbarrier.init.shared::cta.b64 [%r3], 32;\n"
                  "READY:\nbar.sync 0;\nsetp.ge.u32 %p2, %r1, 128;\n@%p2 bra ARRIVE;\nWAIT:\n"
                  "mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0;\n@!%p3 bra WAIT;\nbra OVER;\n"
                  "ARRIVE:\nmbarrier.arrive.release.cta.shared::cta.b64 _, [%r3];\nOVER:\n",
                  160)
              .empty());
    for (const KernelProfile::Line& line : profile().at("kernel").lines) {
      const std::uint64_t waits = line.opcode.starts_with("mbarrier.try_wait") ? 4 : 0;
      const std::uint64_t arrives = line.opcode.starts_with("mbarrier.arrive") ? 1 : 0;
      if (waits + arrives != 0) CHECK(line.group_times == std::vector<std::uint64_t>{waits, arrives});
      if (line.opcode == "bar.sync") CHECK(line.group_times == std::vector<std::uint64_t>{4, 1});
    }
  }
}
