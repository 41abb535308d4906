//go:build !race

package main

// raceFlag builds the server as the tests themselves are built.
const raceFlag = "-race=false"
