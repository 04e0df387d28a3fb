// expect: conversion from
#include <cottention/element.hpp>

int main() {
  const cottention::half x = 1.0f;
  return x.bits;
}
