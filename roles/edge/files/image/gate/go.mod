module gate

go 1.24
