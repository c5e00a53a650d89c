// Renders a chart with what Helm itself is built from: Go's text/template, sprig and sigs.k8s.io/yaml.
// For machines without helm. Of Helm's own functions it has the two that the chart uses, include and
// toYaml, with Helm's meaning; an unknown one is an error. Prints {template: text} as JSON.
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

func load(path string, into interface{}) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		log.Fatalf("%s: %v", path, err)
	}
}

// merge lays given values over the chart's, map by map; a list replaces a list.
func merge(under, over map[string]interface{}) {
	for name, value := range over {
		below, isMap := under[name].(map[string]interface{})
		given, alsoMap := value.(map[string]interface{})
		if isMap && alsoMap {
			merge(below, given)
		} else {
			under[name] = value
		}
	}
}

func main() {
	chart, given := os.Args[1], os.Args[2]
	var about struct{ Name, Version, AppVersion string }
	load(filepath.Join(chart, "Chart.yaml"), &about)
	values := map[string]interface{}{}
	load(filepath.Join(chart, "values.yaml"), &values)
	var over map[string]interface{}
	if err := json.Unmarshal([]byte(given), &over); err != nil {
		log.Fatal(err)
	}
	merge(values, over)

	all := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["include"] = func(name string, data interface{}) (string, error) {
		var text strings.Builder
		err := all.ExecuteTemplate(&text, name, data)
		return text.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	all.Funcs(functions)
	files, _ := filepath.Glob(filepath.Join(chart, "templates", "*"))
	base := about.Name + "/templates"
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			_, err = all.New(base + "/" + filepath.Base(file)).Parse(string(text))
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	rendered := map[string]string{}
	for _, file := range files {
		if strings.HasPrefix(filepath.Base(file), "_") {
			continue
		}
		name := base + "/" + filepath.Base(file)
		var text strings.Builder
		err := all.ExecuteTemplate(&text, name, map[string]interface{}{
			"Values":   values,
			"Chart":    about,
			"Release":  map[string]interface{}{"Name": "lens-ship", "Namespace": "lens-ship", "Service": "Helm"},
			"Template": map[string]interface{}{"Name": name, "BasePath": base},
		})
		if err != nil {
			log.Fatal(err)
		}
		rendered[filepath.Base(file)] = strings.ReplaceAll(text.String(), "<no value>", "")
	}
	json.NewEncoder(os.Stdout).Encode(rendered)
}
