// What the build downloads and only unpacks: go.sum says what each must be. Nothing is built as this module.
module quantops.invalid/sources

go 1.24
