// Package db holds the database schema as numbered migrations, embedded in the
// binary.
package db

import "embed"

// Migrations holds the files migrations/NNNN_name.{up,down}.sql.
//
//go:embed migrations/*.sql
var Migrations embed.FS
