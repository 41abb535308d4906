package postgres

// For the tests, which stand outside since pgtest imports this package.
var NewMigratorOf = newMigrator

const MigrationLockTimeout = migrationLockTimeout
