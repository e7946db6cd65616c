package main

const defaultCapabilities = "efw-0.21"
