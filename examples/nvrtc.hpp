// Kernels compiled at run time by NVRTC and kept in a folder of the user's: the next process reads them
// there. NVRTC is loaded when the program runs, so that nothing of CUDA is linked.
#pragma once

#include <dlfcn.h>
#include <nvrtc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace cottention::example {

/// Ends the program.
template <class... Values>
[[noreturn]] void fail(const char* format, const Values&... values) {
  std::fprintf(stderr, format, values...);
  std::fputc('\n', stderr);
  std::exit(1);
}

/// A function of a library that was loaded at run time; the program ends where it has none of that name.
template <class Function>
Function* function_of(void* library, const char* name, Function*) {
  void* const found = dlsym(library, name);
  if (found == nullptr) fail("a library of CUDA's has no %s", name);
  return reinterpret_cast<Function*>(found);
}
#define COTTENTION_NAME(name) #name
// Headers define some names as macros: cuMemAlloc is cuMemAlloc_v2.
#define COTTENTION_FUNCTION(library, name) \
  function_of(library, COTTENTION_NAME(name), static_cast<decltype(&name)>(nullptr))

struct Source {
  std::string text;                         // defines `launch_facts`, see Kernel
  std::string entry;                        // an expression that names the kernel
  std::vector<std::string> numbers;         // ints with C names, not 0, that a launch needs
  std::vector<std::string> options;         // but for the architecture
  std::string architecture;                 // sm_90 for its machine code, compute_90 for PTX
  std::vector<std::filesystem::path> read;  // files, and folders of files, that the text includes
};

/// What the driver loads, and what a launch needs to know.
struct Kernel {
  std::string name;  // as linkers see it
  std::string image;
  std::map<std::string, int> numbers;  // those of Source
};

/// FNV-1a, 64 bits. Tells apart what differs by mistake, not by intent: the folder is the user's own.
class Hash {
 public:
  void add(std::string_view bytes) {
    add_bytes(std::to_string(bytes.size()) + ":");
    add_bytes(bytes);
  }
  std::string text() const {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash_));
    return digits;
  }

 private:
  void add_bytes(std::string_view bytes) {
    for (const char c : bytes) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  std::uint64_t hash_ = 0xcbf29ce484222325;
};

inline std::optional<std::string> read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return {};
  return std::string(std::istreambuf_iterator<char>(file), {});
}

/// Files of kernels, each under a name that follows from all that it depends on.
class KernelCache {
 public:
  /// In $XDG_CACHE_HOME/cottention or ~/.cache/cottention. Where there is neither, nothing is kept.
  KernelCache() {
    const char *const cache = std::getenv("XDG_CACHE_HOME"), *const home = std::getenv("HOME");
    if (cache != nullptr && *cache == '/')
      folder_ = std::filesystem::path(cache) / "cottention";
    else if (home != nullptr && *home == '/')
      folder_ = std::filesystem::path(home) / ".cache/cottention";
  }

  /// Nothing where there is no such file, or one that is damaged.
  std::optional<Kernel> find(const std::string& key) const {
    const std::optional<std::string> file = folder_.empty() ? std::nullopt : read_file(folder_ / key);
    const std::size_t line = file ? file->find('\n') : std::string::npos;
    if (line == std::string::npos || file->substr(0, line) != checksum(file->substr(line + 1))) return {};
    std::istringstream text(file->substr(line + 1));
    Kernel kernel;
    text >> kernel.name;
    for (std::string name; text.peek() != '\n' && text >> name;) text >> kernel.numbers[name];
    text.ignore();  // the end of the line
    kernel.image.assign(std::istreambuf_iterator<char>(text), {});
    return kernel;
  }

  /// Written under a name of its own and renamed: who reads meanwhile finds the old file, the new one, or
  /// none.
  void add(const std::string& key, const Kernel& kernel) const {
    if (folder_.empty()) return;
    std::ostringstream text;
    text << kernel.name;
    for (const auto& [name, value] : kernel.numbers) text << ' ' << name << ' ' << value;
    text << '\n' << kernel.image;
    const std::string content = checksum(text.str()) + '\n' + text.str();

    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    std::string written = folder_ / (key + ".XXXXXX");
    const int file = mkstemp(written.data());
    if (file < 0) return std::perror(folder_.c_str());
    const bool whole = write(file, content.data(), content.size()) == static_cast<ssize_t>(content.size());
    const bool closed = close(file) == 0;
    if (whole && closed) std::filesystem::rename(written, folder_ / key, error);
    if (!whole || !closed || error) {
      std::fprintf(stderr, "%s: not kept\n", written.c_str());
      std::filesystem::remove(written, error);
    }
  }

 private:
  static std::string checksum(std::string_view content) {
    Hash hash;
    hash.add(content);
    return hash.text();
  }
  std::filesystem::path folder_;
};

class Nvrtc {
 public:
  /// The NVRTC of a folder such as /usr/local/cuda, or of the system.
  bool load(const std::filesystem::path& cuda) {
    for (const std::filesystem::path& folder : {cuda / "lib64", cuda / "lib", std::filesystem::path()})
      for (const char* name : {"libnvrtc.so", "libnvrtc.so.13"})
        if (library_ == nullptr) library_ = dlopen((folder / name).c_str(), RTLD_NOW);
    return library_ != nullptr;
  }

  std::string version() const {
    int major = 0, minor = 0;
    COTTENTION_FUNCTION(library_, nvrtcVersion)(&major, &minor);
    return std::to_string(major) + "." + std::to_string(minor);
  }

  Kernel compile(const Source& source) const {
    nvrtcProgram program{};
    COTTENTION_FUNCTION(library_, nvrtcCreateProgram)
    (&program, source.text.c_str(), "kernel.cu", 0, nullptr, nullptr);
    COTTENTION_FUNCTION(library_, nvrtcAddNameExpression)(program, source.entry.c_str());
    const std::string architecture = "-arch=" + source.architecture;
    std::vector<const char*> options{architecture.c_str()};
    for (const std::string& option : source.options) options.push_back(option.c_str());
    if (COTTENTION_FUNCTION(library_, nvrtcCompileProgram)(program, static_cast<int>(options.size()),
                                                           options.data()) != NVRTC_SUCCESS)
      fail("%s", text(program, COTTENTION_FUNCTION(library_, nvrtcGetProgramLogSize),
                      COTTENTION_FUNCTION(library_, nvrtcGetProgramLog))
                     .c_str());
    Kernel kernel;
    const char* name = nullptr;
    COTTENTION_FUNCTION(library_, nvrtcGetLoweredName)(program, source.entry.c_str(), &name);
    kernel.name = name;
    const std::string ptx = text(program, COTTENTION_FUNCTION(library_, nvrtcGetPTXSize),
                                 COTTENTION_FUNCTION(library_, nvrtcGetPTX));
    for (const std::string& number : source.numbers) kernel.numbers[number] = value_of(number, ptx);
    const bool machine_code = source.architecture.starts_with("sm_");
    kernel.image = machine_code ? text(program, COTTENTION_FUNCTION(library_, nvrtcGetCUBINSize),
                                       COTTENTION_FUNCTION(library_, nvrtcGetCUBIN))
                                : ptx;
    COTTENTION_FUNCTION(library_, nvrtcDestroyProgram)(&program);
    return kernel;
  }

 private:
  template <class Size, class Get>
  static std::string text(nvrtcProgram program, Size size_of, Get get) {
    std::size_t size = 0;
    size_of(program, &size);
    std::string text(size, '\0');
    get(program, text.data());
    return text;
  }

  /// What an int of the source starts as. PTX says it, so that it is known without a GPU that loads the
  /// kernel.
  static int value_of(const std::string& number, const std::string& ptx) {
    const std::string before = " .u32 " + number + " = ";
    const std::size_t found = ptx.find(before);
    if (found == std::string::npos) fail("the PTX has no %s", number.c_str());
    return std::atoi(ptx.c_str() + found + before.size());
  }

  void* library_ = nullptr;
};

/// All that machine code depends on: the text, the headers, the options, the architecture and the compiler.
inline std::string key_of(const Source& source, const std::string& compiler) {
  Hash hash;
  for (const std::string& part : {source.text, source.entry, source.architecture, compiler}) hash.add(part);
  for (const std::string& option : source.options) hash.add(option);
  for (const std::string& number : source.numbers) hash.add(number);
  for (const std::filesystem::path& path : source.read) {
    std::vector<std::filesystem::path> files;
    if (std::filesystem::is_directory(path)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
        if (entry.is_regular_file()) files.push_back(entry.path());
      std::sort(files.begin(), files.end());
    } else {
      files.push_back(path);
    }
    for (const std::filesystem::path& file : files) {
      const std::optional<std::string> content = read_file(file);
      if (!content) fail("%s: cannot be read", file.c_str());
      hash.add(file.string()), hash.add(*content);
    }
  }
  return hash.text();
}

/// From the cache, or else compiled and added there.
inline Kernel find_or_compile(const Nvrtc& nvrtc, const Source& source) {
  const auto start = std::chrono::steady_clock::now();
  const std::string compiler = nvrtc.version(), key = key_of(source, compiler);
  const KernelCache cache;
  std::optional<Kernel> kernel = cache.find(key);
  const bool found = kernel.has_value();
  if (!found) kernel = nvrtc.compile(source), cache.add(key, *kernel);
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  std::printf("%s in %.3f s: %s\n", found ? "read from the cache" : ("compiled by NVRTC " + compiler).c_str(),
              passed.count(), key.c_str());
  return *std::move(kernel);
}

}  // namespace cottention::example
