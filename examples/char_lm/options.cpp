#include "options.hpp"

#include <getopt.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace char_lm {
namespace {

enum Id : int {
  steps,
  context,
  batch,
  dim,
  layers,
  heads,
  attention,
  device,
  prompt,
  generate,
  temperature,
  top_p,
  seed,
  threads,
  save_loss,
  self_test,
  help
};

constexpr option long_options[] = {
    {"steps", required_argument, nullptr, steps},
    {"context", required_argument, nullptr, context},
    {"batch", required_argument, nullptr, batch},
    {"dim", required_argument, nullptr, dim},
    {"layers", required_argument, nullptr, layers},
    {"heads", required_argument, nullptr, heads},
    {"attention", required_argument, nullptr, attention},
    {"device", required_argument, nullptr, device},
    {"prompt", required_argument, nullptr, prompt},
    {"generate", required_argument, nullptr, generate},
    {"temperature", required_argument, nullptr, temperature},
    {"top-p", required_argument, nullptr, top_p},
    {"seed", required_argument, nullptr, seed},
    {"threads", required_argument, nullptr, threads},
    {"save-loss", required_argument, nullptr, save_loss},
    {"self-test", no_argument, nullptr, self_test},
    {"help", no_argument, nullptr, help},
    {nullptr, 0, nullptr, 0},
};

std::string name_of(int id) { return std::string("--") + long_options[id].name; }

std::int64_t integer(int id, std::int64_t least, std::int64_t most) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(optarg, &end, 10);
  if (end == optarg || *end != '\0' || errno != 0 || value < least || value > most)
    throw BadInput(name_of(id) + " = '" + optarg + "': must be a whole number from " + std::to_string(least) +
                   " to " + std::to_string(most));
  return value;
}

double real(int id, int least, int most) {
  char* end = nullptr;
  const double value = std::strtod(optarg, &end);
  if (end == optarg || *end != '\0' || !(value >= least && value <= most))
    throw BadInput(name_of(id) + " = '" + optarg + "': must be a number from " + std::to_string(least) +
                   " to " + std::to_string(most));
  return value;
}

AttentionKind attention_kind() {
  const std::string name = optarg;
  for (const AttentionKind kind : {AttentionKind::cosine, AttentionKind::softmax})
    if (name == to_string(kind)) return kind;
  throw BadInput("--attention = '" + name + "': must be cosine or softmax");
}

Device device_choice() {
  const std::string name = optarg;
  if (name == "cpu") return Device::cpu;
  if (name == "gpu") return Device::gpu;
  if (name == "auto") return Device::automatic;
  throw BadInput("--device = '" + name + "': must be cpu, gpu or auto");
}

void take(int id, Options& options) {
  switch (static_cast<Id>(id)) {
    case steps:
      options.steps = integer(id, 1, 100'000'000);
      break;
    case context:
      options.context = integer(id, 2, 1 << 20);
      break;
    case batch:
      options.batch = integer(id, 1, 4096);
      break;
    case dim:
      options.model.dim = integer(id, 1, 8192);
      break;
    case layers:
      options.model.layers = integer(id, 1, 256);
      break;
    case heads:
      options.model.heads = integer(id, 1, 256);
      break;
    case attention:
      options.model.attention = attention_kind();
      break;
    case device:
      options.device = device_choice();
      break;
    case prompt:
      options.prompt = optarg;
      break;
    case generate:
      options.generate = integer(id, 0, 100'000'000);
      break;
    case temperature:
      options.temperature = real(id, 0, 10);
      break;
    case top_p:
      options.top_p = real(id, 0, 1);
      break;
    case seed:
      options.seed = static_cast<std::uint64_t>(integer(id, 0, std::numeric_limits<std::int64_t>::max()));
      break;
    case threads:
      options.threads = static_cast<int>(integer(id, 0, 1024));
      break;
    case save_loss:
      options.save_loss = optarg;
      break;
    case self_test:
      options.action = Action::self_test;
      break;
    case help:
      options.action = Action::help;
      break;
  }
}

}  // namespace

Options parse_options(int argc, char** argv) {
  Options options;
  opterr = 0;
  while (true) {
    const int here = optind;
    const int id = getopt_long(argc, argv, ":", long_options, nullptr);
    if (id == -1) break;
    if (id == ':') throw BadInput(std::string(argv[here]) + ": needs a value");
    if (id == '?') throw BadInput(std::string(argv[here]) + ": no such option");
    take(id, options);
  }
  if (argc - optind > 1) throw BadInput(std::string("'") + argv[optind + 1] + "': one text file at most");
  if (optind < argc) options.file = argv[optind];
  const Config& model = options.model;
  if (model.dim % model.heads != 0)
    throw BadInput("--dim = " + std::to_string(model.dim) +
                   ": must be a multiple of --heads = " + std::to_string(model.heads));
  if (options.device == Device::gpu && options.action == Action::self_test)
    throw BadInput("--device = 'gpu': --self-test checks gradients in double, on the CPU");
  return options;
}

std::string usage(const std::string& program) {
  const Options d;
  const auto number = [](auto x) { return std::to_string(x); };
  const auto decimal = [](double x) { return std::to_string(x).substr(0, 4); };
  return "Trains a small byte-level language model with cosine attention on a text, then generates from "
         "it.\n\n"
         "usage: " +
         program +
         " [options] [FILE]\n\n"
         "  FILE                the text; without it, Jane Austen's Persuasion\n"
         "  --steps N           training steps (" +
         number(d.steps) +
         ")\n"
         "  --context N         bytes in each training sequence (" +
         number(d.context) +
         ")\n"
         "  --batch N           sequences in each training step (" +
         number(d.batch) +
         ")\n"
         "  --dim N             width of the model (" +
         number(d.model.dim) +
         ")\n"
         "  --layers N          blocks (" +
         number(d.model.layers) +
         ")\n"
         "  --heads N           heads in each block (" +
         number(d.model.heads) +
         ")\n"
         "  --attention KIND    cosine, or softmax for the same model with ordinary attention (cosine)\n"
         "  --device NAME       where attention is computed: cpu, gpu, or auto, on a GPU if that can be "
         "(auto).\n"
         "                      The rest of the model is computed on the CPU anyway\n"
         "  --prompt TEXT       what generation begins with; without it, a line of the held-out text\n"
         "  --generate N        bytes to generate (" +
         number(d.generate) +
         ")\n"
         "  --temperature X     0 takes the likeliest byte (" +
         decimal(d.temperature) +
         ")\n"
         "  --top-p X           sample among the likeliest bytes that hold this probability (" +
         decimal(d.top_p) +
         ")\n"
         "  --seed N            of parameters, batches and samples (" +
         number(d.seed) +
         ")\n"
         "  --threads N         0: as many as there are (0)\n"
         "  --save-loss FILE    write the loss curve as CSV\n"
         "  --self-test         check the gradients of the whole model by finite differences\n"
         "  --help              show this\n";
}

}  // namespace char_lm
