// ONNX Runtime's shared library, opened when the program runs, and what it keeps for the process.
#pragma once

#include <exception>
#include <string>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

namespace edgereel_runtime {

// Opens the library, a file or a folder with one, and takes its functions; empty: where the system
// looks. One for the process, which ONNX Runtime keeps its state in: it stays open to the end.
// Throws Error.
void load_ort(const std::string& place);

// Of the library that was opened. Ort::GetVersionString would have to be linked.
const std::string& ort_version();

// What ONNX Runtime keeps for the process, to its end: sessions may be still there then.
Ort::Env& ort_environment();

// The first line of what it says of a failure.
std::string first_line(const std::exception& error);

}  // namespace edgereel_runtime
