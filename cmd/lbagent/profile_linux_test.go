package main

const defaultCapabilities = "linux"
