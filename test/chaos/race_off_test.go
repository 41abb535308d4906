//go:build linux && !race

package chaos_test

// raceFlag builds the server as the tests themselves are built.
const raceFlag = "-race=false"
